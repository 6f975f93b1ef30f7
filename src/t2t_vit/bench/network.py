"""`bench model`: the network by stage, each with the inputs of a real forward pass, and as a whole."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from t2t_vit.bench.profiling import Laps, Spread, peak, rounds
from t2t_vit.bench.rates import Rates
from t2t_vit.model import T2TViT
from t2t_vit.model.drop import DropBlock
from t2t_vit.precision import Precision


@dataclass(frozen=True)
class Stage:
    """A part of the network: `run(*inputs)` is what it does in a forward pass.

    Attributes:
        name: the modules' own: attention1, attention2, project, blocks, head.
        inputs: detached, and with `requires_grad` where a gradient continues to the stage before.
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


Table = list[dict[str, Any]]


def measure_network(
    model: T2TViT,
    forms: Mapping[str, nn.Module],
    others: Mapping[str, Callable[[], object]],
    images: Tensor,
    precision: Precision,
    rates: Rates,
    repeats: int,
) -> dict[str, Any]:
    """Seconds, FLOP/s and memory of the stages of `model`, and of each of its `forms` (eager, compiled) as a whole.

    Forward is inference: no gradient, nothing dropped. Backward is the backward pass alone, of the network in training.

    Args:
        others: further ways to make a forward pass of as many images, by name.
        images: (B, C, H, W) on the device, as the network takes them.
    """
    flops = flops_of(model)
    # First, as memory is measured best before much is freed.
    whole = measure_whole(forms, others, images, precision, rates, flops, repeats)
    model.train()
    with precision.autocast():
        stages = stages_of(model, images)
    return {"stages": measure_stages(model, stages, precision, rates, flops, repeats), "whole": whole}


def measure_stages(
    model: T2TViT,
    stages: Sequence[Stage],
    precision: Precision,
    rates: Rates,
    flops: Mapping[str, Flops],
    repeats: int,
) -> Table:
    """A row a stage; shares are those of their sum."""
    laps = Laps(precision.device)

    def forward() -> dict[str, float]:
        model.eval()
        for stage in stages:
            with torch.inference_mode(), precision.autocast():
                laps.begin()
                stage.run(*stage.inputs)
                laps.lap(stage.name)
        return laps.seconds()

    def backward() -> dict[str, float]:
        model.train()
        for stage in stages:
            with precision.autocast():
                run = stage.backward(stage.run(*stage.inputs))
            if run is not None:
                laps.begin()
                run()
                laps.lap(stage.name)
        return laps.seconds()

    batch = len(next(tensors_in(stages[0].inputs)))
    there = rounds(forward, repeats)
    back = rounds(backward, repeats)
    return [
        {
            "name": stage.name,
            "forward": _row(there, stage.name, batch * flops[stage.name].forward, rates),
            "backward": _row(back, stage.name, batch * flops[stage.name].backward, rates),
        }
        for stage in stages
    ]


def measure_whole(
    forms: Mapping[str, nn.Module],
    others: Mapping[str, Callable[[], object]],
    images: Tensor,
    precision: Precision,
    rates: Rates,
    flops: Mapping[str, Flops],
    repeats: int,
) -> Table:
    """A row each for the forward pass, and for forward and backward pass, of every form, and one for the others."""
    forward = sum(each.forward for each in flops.values())
    both = forward + sum(each.backward for each in flops.values())
    runs: dict[str, tuple[Callable[[], object], int]] = {name: (run, forward) for name, run in others.items()}
    for name, form in forms.items():
        runs[f"forward, {name}"] = (_inference(form, images, precision), forward)
        runs[f"forward and backward, {name}"] = (_training(form, images, precision), both)
    found = []
    for name, (run, work) in runs.items():
        run()  # compiles, and makes what stays
        memory = peak(run, precision.device)
        found.append({"name": name, "memory": memory, **_timed(run, images, work, rates, precision, repeats)})
    return found


def _timed(
    run: Callable[[], object], images: Tensor, flops: int, rates: Rates, precision: Precision, repeats: int
) -> dict[str, Any]:
    laps = Laps(precision.device)

    def once() -> dict[str, float]:
        laps.begin()
        run()
        laps.lap("all")
        return laps.seconds()

    seconds = rounds(once, repeats)["all"]
    return {
        **rates.figure(seconds, len(images) * flops),
        "images_per_second": len(images) / Spread.of(seconds).median,
    }


def _inference(form: nn.Module, images: Tensor, precision: Precision) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> None:
        form.eval()
        with precision.autocast():
            form(images)

    return run


def _training(form: nn.Module, images: Tensor, precision: Precision) -> Callable[[], object]:
    targets = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def run() -> None:
        form.train()
        with precision.autocast():
            logits = form(images)
        torch.autograd.backward(cross_entropy(logits.float(), targets))
        form.zero_grad(set_to_none=True)

    return run


def _row(seconds: Mapping[str, list[float]], name: str, flops: int, rates: Rates) -> dict[str, Any] | None:
    """None where there is nothing to do."""
    if name not in seconds:
        return None
    total = sum(Spread.of(values).median for values in seconds.values())
    return {**rates.figure(seconds[name], flops), "share": Spread.of(seconds[name]).median / total}
