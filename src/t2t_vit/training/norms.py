"""How large the weights are, and how far an update moves them."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from t2t_vit.training.optimizer import trainable
from t2t_vit.training.state import State


class Norms:
    """Global norms of the parameters and of their last update, for the updates that are shown and no others.

    Around such an update the optimizer's hooks keep one copy of the parameters; at all others they return at once, so
    these cost neither memory nor time. Nothing is read from the device before `read`.

    Args:
        state: its step is the number of updates before the one that the optimizer makes.
        every: numbers of updates between those that are shown, 0 for none; the last of an epoch always is.
    """

    def __init__(self, optimizer: Optimizer, state: State, *every: int) -> None:
        self._parameters: list[Tensor] = list(trainable(optimizer))
        self._state, self._every = state, [period for period in every if period]
        self._before: list[Tensor] = []
        self._measured_at, self._norms = -1, torch.zeros(2)
        optimizer.register_step_pre_hook(lambda *_: self._keep())
        optimizer.register_step_post_hook(lambda *_: self._measure())

    def read(self, step: int) -> tuple[float, float]:
        """Of the parameters, and of the update: those of update number `step`, NaN where it was not measured."""
        if step != self._measured_at:
            return math.nan, math.nan
        parameters, update = self._norms.tolist()
        return parameters, update

    def state_dict(self) -> dict[str, Any]:
        """The norms of the last update that was shown, and its number."""
        return {"measured_at": self._measured_at, "norms": self._norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._measured_at, self._norms = state["measured_at"], state["norms"]

    def _is_due(self) -> bool:
        step = self._state.step + 1
        return step == self._state.epoch_end or any(step % period == 0 for period in self._every)

    @torch.no_grad()
    def _keep(self) -> None:
        if self._is_due():
            self._before = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def _measure(self) -> None:
        if not self._before:
            return
        moved, self._before = self._before, []
        torch._foreach_sub_(moved, self._parameters)
        self._norms = torch.stack([get_total_norm(self._parameters), get_total_norm(moved)])
        self._measured_at = self._state.step + 1
