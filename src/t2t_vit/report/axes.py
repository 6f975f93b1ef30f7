"""Axes of a chart: which numbers stand at them, and where a value lies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto positions from `start` to `end`, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    @property
    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        return _decades(self.low, self.high) if self.log else round_steps(self.low, self.high)


def scale_for(values: Sequence[float], start: float, end: float, *, log: bool = False) -> Scale:
    """A scale on which all `values` lie, with a little air; logarithmic where asked for and possible."""
    low, high = min(values), max(values)
    if log and low > 0 and high / low > 20:
        return Scale(
            10 ** math.floor(math.log10(low) + 1e-9), 10 ** math.ceil(math.log10(high) - 1e-9), start, end, True
        )
    if high - low < 1e-12 * max(abs(high), 1e-300):
        low, high = (low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)) if low else (0.0, high or 1.0)
    step = _step(high - low)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


def round_steps(low: float, high: float, about: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`."""
    step = _step(high - low, about)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) if step > 1e-9 else index * step for index in range(first, last + 1)]


def _step(span: float, about: int = 4) -> float:
    rough = span / about
    power: float = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _decades(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    stride = max(1, (last - first) // 4)
    return [10.0**exponent for exponent in range(first, last + 1, stride)]
