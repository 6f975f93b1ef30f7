"""The stages of a network, each with the inputs that it gets in a real forward pass, so that it can be run alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from t2t_vit.model import T2TViT
from t2t_vit.model.drop import DropBlock


@dataclass(frozen=True)
class Stage:
    """A part of the network: `run(*inputs)` is what it does in a forward pass.

    Attributes:
        name: the modules' own: attention1, attention2, project, blocks, head.
        inputs: detached, and with `requires_grad` where a gradient goes on to the stage before.
        parameters: those of the stage that are trained.
    """

    name: str
    run: Callable[..., Any]
    inputs: tuple[Any, ...]
    parameters: tuple[nn.Parameter, ...]

    @property
    def sources(self) -> list[Tensor]:
        """What its backward pass makes gradients of."""
        return [tensor for tensor in tensors_in(self.inputs) if tensor.requires_grad] + list(self.parameters)

    def backward(self, outputs: Any) -> Callable[[], object] | None:
        """The backward pass from `outputs = run(*inputs)`; None where nothing of the stage needs one."""
        ends = [tensor for tensor in tensors_in(outputs) if tensor.requires_grad]
        if not ends:
            return None
        seeds = [torch.ones_like(end) for end in ends]
        return lambda: torch.autograd.grad(ends, self.sources, seeds, allow_unused=True)


def stages_of(model: T2TViT, images: Tensor) -> list[Stage]:
    """The stages in the order in which images (B, C, H, W) go through them; run it in the context that they run in.

    Inputs are taken by hooks. What lies between the stages (maps of tokens, class token, positions) belongs to none of
    them.
    """
    parts = {name: part for name, part in model.tokens_to_token.named_children() if not isinstance(part, DropBlock)}
    first, norm = model.blocks[0], model.norm
    taken: dict[nn.Module, tuple[Any, ...]] = {}

    def take(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        taken[module] = tuple(mapped(value, fresh) for value in inputs)

    with ExitStack() as hooks:
        for part in [*parts.values(), first, norm]:
            hooks.callback(part.register_forward_pre_hook(take).remove)
        model(images)
    stages = [Stage(name, part, taken[part], trained(part)) for name, part in parts.items()]
    stages.append(Stage("blocks", partial(in_order, model.blocks), taken[first], trained(model.blocks)))
    ends = (*trained(norm), *trained(model.head))
    return [*stages, Stage("head", lambda tokens: model.forward_head(norm(tokens)), taken[norm], ends)]


@dataclass(frozen=True)
class Flops:
    """FLOP of one image in matrix products, 2 a multiply-add."""

    forward: int
    backward: int


def flops_of(model: T2TViT) -> dict[str, Flops]:
    """What each stage computes for an image, counted on shapes alone; what is frozen has no gradient to count."""
    shadow = deepcopy(model).to(device="meta", dtype=torch.float32).train()
    images = torch.empty(1, shadow.in_chans, *shadow.image_size, device="meta")
    found = {}
    for stage in stages_of(shadow, images):
        forward: Any = FlopCounterMode(display=False)
        backward: Any = FlopCounterMode(display=False)
        with forward:
            outputs = stage.run(*stage.inputs)
        run = stage.backward(outputs)
        with backward:
            if run is not None:
                run()
        found[stage.name] = Flops(int(forward.get_total_flops()), int(backward.get_total_flops()))
    return found


def in_order(modules: nn.ModuleList, tokens: Tensor) -> Tensor:
    """One after the other."""
    for module in modules:
        tokens = module(tokens)
    return tokens


def trained(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """The parameters that get a gradient."""
    return tuple(parameter for parameter in module.parameters() if parameter.requires_grad)


def fresh(tensor: Tensor) -> Tensor:
    """The same numbers without a past."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with every tensor in it changed: alone, or in tuples and lists."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor that `mapped` would change."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, keep)
    return iter(found)
