"""Batches made ahead of use on a CUDA stream of their own."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
T = TypeVar("T")


def on_device(samples: Iterable[T], finish: Callable[[T], Batch], device: torch.device, ahead: bool) -> Iterator[Batch]:
    """Finished batches; on CUDA with `ahead`, each is made on a side stream while the one before it is in use."""
    if device.type != "cuda" or not ahead:
        yield from map(finish, samples)
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready: Batch | None = None
    for following in samples:
        with torch.cuda.stream(side):
            made = finish(following)
        if ready is not None:
            yield ready
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        for tensor in made:
            tensor.record_stream(current)  # else its memory could be given to the side stream while still in use
        ready = made
    if ready is not None:
        yield ready
