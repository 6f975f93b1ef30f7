"""What a device could do: its data sheet, and a matrix product measured on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from t2t_vit.bench.profiling import Spread, in_turn
from t2t_vit.training.measurements import peak_of

GPU_SIDE = 8192
CPU_SIDES = (512, 1024, 2048, 4096)
LONGEST = 0.08  # seconds of one product on a CPU


@dataclass(frozen=True)
class Rates:
    """FLOP/s of one device in one type of number.

    datasheet  the maker's, for dense products (`training/measurements.py`); None: not known, as of every processor
    measured   by a product of two square matrices, the fastest of several: the greatest rate that is there in practice
    side       of these matrices
    """

    dtype: str
    datasheet: float | None
    measured: float
    side: int

    def figure(self, seconds: Sequence[float], flops: int) -> dict[str, Any]:
        """How fast work of `flops` was done, and which share of each rate that is, in [0, 1]; by the median."""
        spread = Spread.of(seconds)
        rate = flops / spread.median
        return {
            "seconds": spread.to_dict(),
            "flops": flops,
            "flops_per_second": rate,
            "mfu_datasheet": None if self.datasheet is None else rate / self.datasheet,
            "mfu_measured": rate / self.measured,
        }


def rates_of(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of `device` in `dtype`; takes less than a second on a CPU."""
    side = GPU_SIDE if device.type != "cpu" else _side(dtype)
    return Rates(str(dtype).removeprefix("torch."), peak_of(device, dtype), product_rate(device, dtype, side), side)


def product_rate(device: torch.device, dtype: torch.dtype, side: int, repeats: int = 5) -> float:
    """FLOP/s of the product of two (side, side) matrices."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = in_turn({"": lambda: left @ right}, device, repeats=repeats)[""]
    return 2.0 * side**3 / min(seconds)


def _side(dtype: torch.dtype) -> int:
    """The largest that does not take too long; each takes eight times as long as the one before it."""
    cpu = torch.device("cpu")
    for side in CPU_SIDES[:-1]:
        if 2.0 * (2 * side) ** 3 / product_rate(cpu, dtype, side, repeats=1) > LONGEST:
            return side
    return CPU_SIDES[-1]
