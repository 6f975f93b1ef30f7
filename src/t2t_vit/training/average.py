"""The uniform average of the weights at the ends of epochs."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from t2t_vit.training.ema import move
from t2t_vit.training.state import State


class EpochAverage:
    """`module` is a copy of `model` with the mean of the weights that it had at the ends of some epochs.

        last epochs e - k + 1 .. e       (Kaddour 2022, arXiv 2209.14981): the weights of k epochs are kept
        first_epoch .. e                 (Izmailov et al. 2018, arXiv 1803.05407): one running mean

    An epoch counts when all its updates are made. The networks here have no batch norm, so nothing is computed again
    for the mean; buffers are those of the last epoch. torch's AveragedModel is the running mean alone.

    Make it before the model is compiled or wrapped.

    Args:
        model: whose trainable weights are averaged.
        last: k, how many epochs are kept; 0 is the running mean.
        first_epoch: the first epoch, from 1, of the running mean.

    Attributes:
        count: epochs in the mean; `module` has no meaning while it is 0.
        first_epoch: the first epoch, from 1, that is averaged.
    """

    def __init__(self, model: nn.Module, *, last: int = 0, first_epoch: int = 1) -> None:
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.count = 0
        self.first_epoch = first_epoch
        self._last, self._epoch = last, 0
        self._kept: list[dict[str, Tensor]] = []  # from the oldest epoch to the newest
        self._weights: dict[str, Tensor] = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._means: list[Tensor] = [self.module.get_parameter(name) for name in self._weights]
        self._buffers, self._own_buffers = list(model.buffers()), list(self.module.buffers())

    @torch.no_grad()
    def follow(self, state: State) -> None:
        """Take in the present weights if `state` is at the end of an epoch; those of an epoch are taken in once."""
        epoch, rest = divmod(state.step, state.updates_per_epoch)
        if rest or epoch <= self._epoch or (not self._last and epoch < self.first_epoch):
            return
        self._epoch = epoch
        if self._last:
            newest = {name: one.detach().clone() for name, one in self._weights.items()}
            self._kept = [*self._kept, newest][-self._last :]
            self._take_mean()
        else:
            self.count += 1
            share = torch.tensor(1 / self.count, device=self._means[0].device)
            move(self._means, list(self._weights.values()), share)
        if self._buffers:
            torch._foreach_copy_(self._own_buffers, self._buffers)

    def _take_mean(self) -> None:
        self.count = len(self._kept)
        first, *others = ([kept[name] for name in self._weights] for kept in self._kept)
        torch._foreach_copy_(self._means, first)
        for weights in others:
            torch._foreach_add_(self._means, weights)
        torch._foreach_div_(self._means, self.count)

    def state_dict(self) -> dict[str, Any]:
        """What a continued run has to know besides the weights of `module`."""
        return {"epoch": self._epoch, "count": self.count, "kept": self._kept}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Tensor] | None) -> None:
        """Continue from `state_dict()`, and from the weights that `module` had; None where it had no epoch.

        If the run was made longer, so that the running mean begins later than it did, it starts again.

        Raises:
            ValueError: the weights of an epoch are not those of this network.
        """
        for kept in state["kept"]:
            if {name: one.shape for name, one in kept.items()} != {n: w.shape for n, w in self._weights.items()}:
                raise ValueError("the weights that the average keeps of an epoch are of another network")
        if weights is not None:
            self.module.load_state_dict(weights)
        device = self._means[0].device
        self._epoch, self.count = state["epoch"], state["count"]
        if not self._last and self._epoch - self.count + 1 < self.first_epoch:
            self.count = 0
        self._kept = [{name: one.to(device) for name, one in kept.items()} for kept in state["kept"]]
