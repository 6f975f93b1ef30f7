"""Lines over the epochs as SVG, which any browser draws and any printer prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from t2t_vit.report.axes import Scale, round_steps, scale_for
from t2t_vit.report.markup import number, text
from t2t_vit.report.run_files import Points, thinned

WIDTH, HEIGHT = 360, 196
LEFT, RIGHT, TOP, BOTTOM = 46, 352, 10, 166
_MARKED = 40  # points, at most, that are drawn as dots too


@dataclass(frozen=True)
class Line:
    """One course: what it is called, its points, and its colour by the name of a style: train, raw, ema or other."""

    label: str
    points: Points
    style: str = "other"


def panel(
    title: str,
    lines: Sequence[Line],
    *,
    show: Callable[[float], str] = number,
    log: bool = False,
    up_to: float | None = None,
) -> str:
    """A titled chart of those lines that have points, and the last value of each; nothing where none has.

    Args:
        show: a value as text.
        log: a logarithmic axis where the values span more than a factor of 20.
        up_to: the axis begins at 0 and goes at least so far.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    legend = "".join(
        f'<span class="key {line.style}">{text(line.label)} <b>{show(line.points[-1][1])}</b></span>' for line in drawn
    )
    picture = _picture(title, drawn, show, log, up_to)
    head = f'<figcaption>{text(title)}</figcaption><div class="keys">{legend}</div>'
    return f'<figure class="panel">{head}{picture}</figure>\n'


def _picture(title: str, lines: Sequence[Line], show: Callable[[float], str], log: bool, up_to: float | None) -> str:
    values = [value for line in lines for _, value in line.points]
    last = max(epoch for line in lines for epoch, _ in line.points)
    x = Scale(0.0, last or 1.0, LEFT, RIGHT)
    y = scale_for(values if up_to is None else [0.0, up_to, *values], BOTTOM, TOP, log=log)
    body = "".join([_grid(x, y, show), *(_line(line, x, y, show) for line in lines)])
    label = f"{text(title)} over the epochs"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'


def _grid(x: Scale, y: Scale, show: Callable[[float], str]) -> str:
    parts = []
    for tick in y.ticks:
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at}" dy="0.32em" text-anchor="end">{show(tick)}</text>')
    for tick in round_steps(x.low, x.high, 6):
        at = f"{x(tick):.1f}"
        parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{BOTTOM}" y2="{BOTTOM + 3}"/>')
        parts.append(f'<text class="tick" x="{at}" y="{BOTTOM + 14}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
    parts.append(f'<text class="tick" x="{RIGHT}" y="{HEIGHT - 2}" text-anchor="end">epoch</text>')
    return "".join(parts)


def _line(line: Line, x: Scale, y: Scale, show: Callable[[float], str]) -> str:
    spots = [(x(epoch), y(value)) for epoch, value in thinned(line.points)]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in spots)
    course = f'<polyline class="line {line.style}" points="{path}"/>'
    if len(line.points) > _MARKED:
        return course
    dots = "".join(
        f'<circle class="dot {line.style}" cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="2.4">'
        f"<title>{text(line.label)}, epoch {number(epoch)}: {show(value)}</title></circle>"
        for epoch, value in line.points
    )
    return course + dots
