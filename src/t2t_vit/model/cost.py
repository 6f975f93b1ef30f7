"""What a network costs, counted on shapes alone: nothing is computed and no weight is allocated."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
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
    counter: Any = FlopCounterMode(display=False)
    with counter:
        saved_bytes = kept_for_backward(model, images)
    return Cost(
        parameters=sum(tensor.numel() for tensor in state),
        macs=counter.get_total_flops() // 2,
        weight_bytes=sum(tensor.nbytes for tensor in state),
        saved_bytes=saved_bytes,
    )


def kept_for_backward(model: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass: of each storage once, without those of the model's own tensors."""
    own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # kept alive, so that no other storage gets its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(images)
    total = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    del output
    return total
