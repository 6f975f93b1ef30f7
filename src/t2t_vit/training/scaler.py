"""Loss scaling: float16 gradients below 6e-8 vanish, so the loss is multiplied before the backward pass."""

from typing import Any

import torch
from torch import Tensor

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
        """Go on from `state_dict()`."""
        self.scale = state["scale"].to(self.scale)
        self._good = state["good"].to(self._good)
