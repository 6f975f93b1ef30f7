"""Training in half weights: a working copy goes forward and backward, the network itself keeps the float32 masters."""

import torch
from torch import Tensor, nn


class WorkingCopy:
    """`module` runs in place of `masters`, whose weights it takes before each update and to which it hands gradients.

    The optimizer, the average and the checkpoint see the masters alone, so a run in half weights is saved and continued
    as every other (Micikevicius et al. 2018, section 3.1). Buffers are the masters' own.

    Args:
        masters: the network, its weights in float32.
        module: its copy, in whatever types (see `Precision.working_copy`).
    """

    def __init__(self, masters: nn.Module, module: nn.Module) -> None:
        self.module = module
        pairs = list(zip(masters.parameters(), module.parameters(), strict=True))
        self._masters: list[Tensor] = [master for master, _ in pairs]
        self._copies: list[Tensor] = [copy for _, copy in pairs]

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the masters' weights into the copy."""
        torch._foreach_copy_(self._copies, self._masters)

    @torch.no_grad()
    def hand_over(self) -> None:
        """Give the masters the copy's gradients, in their own type."""
        for master, copy in zip(self._masters, self._copies, strict=True):
            master.grad = None if copy.grad is None else copy.grad.to(master.dtype, copy=True)
            copy.grad = None
