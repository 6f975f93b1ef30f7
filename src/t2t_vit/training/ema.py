"""The exponential moving average of the weights."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class Ema:
    """`module` is a copy of `model` whose parameters follow it: ema <- decay ema + (1 - decay) weights.

    The decay holds from the first update, as in the authors' code: with 0.99996 the average still is mostly
    the initial weights after 10,000 updates. Buffers are copied: statistics follow, constants stay the same.

    An update that was skipped counts for the average neither. Make it before the model is compiled or wrapped.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._averages: list[Tensor] = list(self.module.parameters())
        self._weights: list[Tensor] = list(model.parameters())
        self._own_buffers = list(self.module.buffers())
        self._buffers = list(model.buffers())

    @torch.no_grad()
    def update(self, moved: Tensor) -> None:
        """Take one step towards the model's present weights, unless they were not `moved`, () bool on the device."""
        share = torch.where(moved, 1.0 - self.decay, 0.0)  # ()
        move(self._averages, self._weights, share)
        if self._buffers:
            torch._foreach_copy_(self._own_buffers, self._buffers)


def move(averages: list[Tensor], weights: list[Tensor], share: Tensor) -> None:
    """averages + share (weights - averages), in place; `share` () stays on the device.

    CUDA has a kernel for many tensors at once of each of three steps, but of an interpolation only where its share is
    known to the host or a tensor of every size: that would be a launch a tensor.
    """
    if averages and averages[0].is_cuda:
        steps = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(steps, share)
        torch._foreach_add_(averages, steps)
    else:
        torch._foreach_lerp_(averages, weights, [share] * len(averages))
