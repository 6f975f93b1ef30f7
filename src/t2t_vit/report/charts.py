"""Charts as numbers: where each line, bar and tick lies. `templates/charts.html` draws them as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t2t_vit.report.formatting import number, percent
from t2t_vit.report.run_files import Points, thinned

_MARKED = 40  # points, at most, that are drawn as dots too


@dataclass(frozen=True)
class Frame:
    """The size of a drawing, and the rectangle in it that values are drawn into; y grows downwards, as in SVG."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


CURVES = Frame(360, 196, 46, 352, 10, 166)
RELIABILITY = Frame(420, 360, 44, 408, 10, 250)
FLOOR, CEILING = 320, 274  # the histogram under the reliability diagram lies between


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
    """A scale on which all `values` lie, from one round number to another.

    It is logarithmic where that is asked for, all values are positive, and they span more than a factor of 20.
    """
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


@dataclass(frozen=True)
class Line:
    """Values over the epochs: a label, the points, and a style that gives the colour.

    style  train, raw, ema or other in a report; of-0 to of-7 in a comparison
    """

    label: str
    points: Points
    style: str = "other"


@dataclass(frozen=True)
class Mark:
    """A text at a place of the drawing."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class DrawnLine:
    """A line where it lies: its corners (x, y), dots with a hint where the points are few, and its last value."""

    label: str
    style: str
    last: str
    corners: list[tuple[float, float]]
    dots: list[Mark]


@dataclass(frozen=True)
class Chart:
    """Lines over the epochs, or over what `over` says, with their axes."""

    title: str
    lines: list[DrawnLine]
    x_ticks: list[Mark]
    y_ticks: list[Mark]
    over: str = "epoch"
    frame: Frame = CURVES


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    show: Callable[[float], str] = number,
    log: bool = False,
    up_to: float | None = None,
    over: str = "epoch",
) -> Chart | None:
    """The chart of those lines that have points; None where none has.

    Args:
        show: a value as text.
        log: a logarithmic axis where the values span more than a factor of 20.
        up_to: the axis begins at 0 and goes at least to here.
        over: what the horizontal axis counts.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return None
    values = [value for line in drawn for _, value in line.points]
    last = max(epoch for line in drawn for epoch, _ in line.points)
    x = Scale(0.0, last or 1.0, CURVES.left, CURVES.right)
    y = scale_for(values if up_to is None else [0.0, up_to, *values], CURVES.bottom, CURVES.top, log=log)
    return Chart(
        title,
        [_placed(line, x, y, show, over) for line in drawn],
        [Mark(x(tick), CURVES.bottom, number(tick)) for tick in round_steps(x.low, x.high, 6)],
        [Mark(CURVES.left, y(tick), show(tick)) for tick in y.ticks],
        over,
    )


def _placed(line: Line, x: Scale, y: Scale, show: Callable[[float], str], over: str) -> DrawnLine:
    corners = [(x(epoch), y(value)) for epoch, value in thinned(line.points)]
    dots = [
        Mark(x(epoch), y(value), f"{line.label}, {over} {number(epoch)}: {show(value)}") for epoch, value in line.points
    ]
    return DrawnLine(
        line.label, line.style, show(line.points[-1][1]), corners, dots if len(line.points) <= _MARKED else []
    )


@dataclass(frozen=True)
class Bar:
    """A rectangle with a hint.

    kind   seen: accuracy; over: confidence beyond the accuracy; under: accuracy beyond the confidence; many: images
    """

    kind: str
    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Diagram:
    """Accuracy over confidence in bars, and below it how many images each bin holds."""

    bars: list[Bar]
    x_ticks: list[Mark]
    y_ticks: list[Mark]
    total: int
    most: int
    frame: Frame = RELIABILITY
    floor: int = FLOOR


def reliability_diagram(bins: Sequence[dict[str, Any]], total: int) -> Diagram:
    """Confidence against accuracy (DeGroot and Fienberg 1983).

    Args:
        bins: `low`, `high`, `count`, `confidence` and `accuracy` of each bin, all but `count` in 0..1.
        total: images in all bins.
    """
    frame = RELIABILITY
    x, y = Scale(0, 1, frame.left, frame.right), Scale(0, 1, frame.bottom, frame.top)
    most = max((each["count"] for each in bins), default=1) or 1
    depth = Scale(0, most, FLOOR, CEILING)
    bars = []
    for each in bins:
        if not each["count"]:
            continue
        left, width = x(each["low"]) + 1, x(each["high"]) - x(each["low"]) - 2
        lower, upper = sorted((each["accuracy"], each["confidence"]))
        kind = "over" if each["confidence"] > each["accuracy"] else "under"
        text = (
            f"{each['low']:.2f} to {each['high']:.2f}: {each['count']:,} images, confidence "
            f"{percent(each['confidence'])}, accuracy {percent(each['accuracy'])}"
        )
        bars += [
            Bar("seen", left, y(lower), width, frame.bottom - y(lower), text),
            Bar(kind, left, y(upper), width, y(lower) - y(upper), text),
            Bar("many", left, depth(each["count"]), width, FLOOR - depth(each["count"]), text),
        ]
    ticks = [tenth / 10 for tenth in range(0, 11, 2)]
    return Diagram(
        bars,
        [Mark(x(tick), FLOOR, f"{tick:g}") for tick in ticks],
        [Mark(frame.left, y(tick), f"{tick:g}") for tick in ticks],
        total,
        most,
    )
