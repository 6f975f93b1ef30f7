"""Training in half precision: the loss is scaled, and the network's weights are rounded into a working copy."""

from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 2.0**126  # infinity could not be halved


class LossScaler:
    """The scale of the loss, kept on the device so that no step waits for the host (Micikevicius et al. 2018).

    dynamic: halved after a gradient that is not finite, down to 1 at the lowest (or where it began, if lower), and
    doubled after `growth_interval` good ones in a row. Otherwise the scale stays; 1, the default, is no scaling.
    """

    def __init__(
        self, device: torch.device, scale: float = 1.0, *, dynamic: bool = False, growth_interval: int = 2000
    ) -> None:
        self.scale = torch.tensor(scale, dtype=torch.float32, device=device)  # ()
        self.dynamic = dynamic
        self.growth_interval = growth_interval
        self._lowest = min(1.0, scale)
        self.is_identity = scale == 1.0 and not dynamic
        self._good = torch.zeros((), dtype=torch.int32, device=device)  # good steps in a row

    def update(self, finite: Tensor) -> None:
        """Adjust the scale to whether the last gradient was finite, () bool."""
        if not self.dynamic:
            return
        good = torch.where(finite, self._good + 1, 0)
        grows = good >= self.growth_interval
        self._good = torch.where(grows, 0, good)
        shrunk = (self.scale / 2).clamp(min=self._lowest)
        grown = (self.scale * 2).clamp(max=LARGEST)
        self.scale = torch.where(finite, torch.where(grows, grown, self.scale), shrunk)

    def state_dict(self) -> dict[str, Any]:
        """The scale and the run of good steps, as tensors."""
        return {"scale": self.scale, "good": self._good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is no state of a scaler.
        """
        scale, good = float(state["scale"]), int(state["good"])
        if not (0 < scale <= LARGEST and 0 <= good < 2**31):
            raise ValueError(f"the scale of the loss is {scale:g}, after {good} good steps")
        self.scale = torch.full_like(self.scale, scale)
        self._good = torch.full_like(self._good, good)


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
