"""A network without the memory of its large tensors, and whether another network is still the one it would be."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from t2t_vit.variants import SoftSplit

_LARGE = 2**14
Model = TypeVar("Model", bound=nn.Module)

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# What tells how a module computes; all else that lies in it is a tensor, a module, or torch's own.
_SETTINGS = (bool, int, float, str, tuple, type(None), SoftSplit, torch.Size)
# The mode, the speed and the rates of a training, which are not a part of the network that is saved.
_NOT_COMPARED = frozenset({"training", "kernels", "p", "rate", "inplace", "place", "seeds"})
# What a class of somebody else's must not compute in its own way.
_COMPUTING = ("forward", "forward_features", "forward_head", "embed", "run")


def skeleton(build: Callable[[], Model]) -> Model:
    """What `build` builds, its large tensors on the meta device; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]), _WithoutMemory():
        return build()


class _WithoutMemory(TorchFunctionMode):
    """Large parameters get no memory, so that they are not initialised either.

    The small ones do: among them are those whose initialisation is more than a draw, and without memory that would
    make torch load its compiler, for seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], _types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        where = {"device": "meta"} if func is torch.empty and _count(args) > _LARGE else {}
        return func(*args, **{**(kwargs or {}), **where})


def _count(sizes: Sequence[Any]) -> int:
    """Elements of `torch.empty(*sizes)`."""
    return math.prod(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)


def first_difference(model: nn.Module, twin: nn.Module) -> str | None:
    """The first thing by which `model` answers otherwise than `twin` with its tensors would; None where there is none.

    Compared are classes, settings, hooks and replaced methods of all modules, and names, shapes and kinds of all
    tensors. Not compared are values, modes, and rates of dropping.

    Returns:
        The end of a sentence that names the module or tensor.
    """
    return next(_differences(model, twin), None)


def _differences(model: nn.Module, twin: nn.Module) -> Iterator[str]:
    yield from _of_class(model)
    mine, theirs = (dict(network.named_modules(remove_duplicate=False)) for network in (model, twin))
    for name in [*mine, *theirs]:
        if name not in theirs:
            yield f"{name} was added (a {type(mine[name]).__name__})"
        elif name not in mine:
            yield f"{name} is missing"
        else:
            yield from _of_module(name, mine[name], theirs[name])
    yield from _of_tensors(model.state_dict(), twin.state_dict())


def _of_class(model: nn.Module) -> Iterator[str]:
    for kind in type(model).__mro__:
        if kind.__module__.startswith("t2t_vit.") or kind is nn.Module:
            return
        for name in _COMPUTING:
            if name in vars(kind):
                yield f"its class {kind.__name__} has its own {name}"


def _of_module(name: str, mine: nn.Module, theirs: nn.Module) -> Iterator[str]:
    shown = name or "the network"
    # `fuse` makes modules compute the same by other kernels, with the same settings and tensors.
    is_fused = type(mine).__module__.startswith("t2t_vit.fast.") and isinstance(mine, type(theirs))
    if name and type(mine) is not type(theirs) and not is_fused:
        yield f"{name} is a {type(mine).__name__} instead of a {type(theirs).__name__}"
    for key, value in mine.__dict__.items():
        if key != "extra_repr" and callable(value) and callable(getattr(type(mine), key, None)):
            yield f"{shown} has its own {key}"
    if mine._forward_hooks or mine._forward_pre_hooks:
        yield f"{shown} has a hook"
    for key, value in theirs.__dict__.items():
        is_setting = isinstance(value, _SETTINGS) and not key.startswith("_") and key not in _NOT_COMPARED
        if name and is_setting and mine.__dict__.get(key) != value:
            yield f"{name} has {key} {mine.__dict__.get(key)} instead of {value}"


def _of_tensors(mine: Mapping[str, Any], theirs: Mapping[str, Tensor]) -> Iterator[str]:
    for name in [*mine, *theirs]:
        if name not in theirs:
            yield f"{name} was added"
        elif name not in mine:
            yield f"{name} is missing"
        elif (reason := _not_plain(mine[name])) is not None:
            yield f"{name} {reason}"
        elif mine[name].shape != theirs[name].shape:
            yield f"{name} is {tuple(mine[name].shape)} instead of {tuple(theirs[name].shape)}"


def _not_plain(tensor: Any) -> str | None:
    """Why a tensor cannot be written as it is."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"is a {type(tensor).__name__}"
    if tensor.device.type == "meta":
        return "is on the meta device, without values"
    if tensor.dtype not in _FLOATS:
        return f"is of {str(tensor.dtype).removeprefix('torch.')}"
    return None if tensor.layout is torch.strided else "is sparse"
