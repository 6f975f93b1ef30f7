"""What a network costs, counted on shapes alone: nothing is computed and no weight is allocated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from t2t_vit.model.t2t_vit import create_model


@dataclass(frozen=True)
class Cost:
    """The cost of one network for one image.

    Attributes:
        parameters: all numbers in the state dict, frozen ones included.
        macs: multiply-adds of a forward pass, attention included (a table that leaves it out gives less).
        weight_bytes: the state dict in float32.
        saved_bytes: what a training step keeps of the forward pass for the backward pass, in float32.
    """

    parameters: int
    macs: int
    weight_bytes: int
    saved_bytes: int


def count_cost(name: str, image_size: int | tuple[int, int] = 224, num_classes: int = 1000) -> Cost:
    """Count for one image of `image_size` (side, or height and width)."""
    with torch.device("meta"):
        model = create_model(name, image_size=image_size, num_classes=num_classes)
        images = torch.empty(1, model.in_chans, *model.image_size)
    state = model.state_dict().values()
    saved = _Saved({tensor.untyped_storage()._cdata for tensor in state})
    counter: Any = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        model(images)
    return Cost(
        parameters=sum(tensor.numel() for tensor in state),
        macs=counter.get_total_flops() // 2,
        weight_bytes=sum(tensor.nbytes for tensor in state),
        saved_bytes=saved.total,
    )


class _Saved:
    """Adds up the storages that autograd keeps, each once, weights left out."""

    def __init__(self, weights: set[int]) -> None:
        self.total = 0
        self._seen = weights
        self._held: list[Tensor] = []  # else a freed storage's number could come again
        self.unpack: Callable[[Tensor], Tensor] = lambda tensor: tensor

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._held.append(tensor)
            self.total += storage.nbytes()
        return tensor
