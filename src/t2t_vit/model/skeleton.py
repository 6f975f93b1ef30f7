"""A network without the memory of its large tensors, and without the time to initialise them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_LARGE = 2**14
Model = TypeVar("Model", bound=nn.Module)


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
