"""Confidence against accuracy, as a reliability diagram (DeGroot and Fienberg 1983)."""

from typing import Any

from t2t_vit.report.axes import Scale
from t2t_vit.report.markup import number, percent, section, table

WIDTH, HEIGHT = 420, 360
LEFT, RIGHT, TOP, BOTTOM = 44, 408, 10, 250
_FLOOR = 320  # the histogram below stands on it


def reliability(evaluation: dict[str, Any], badge: str) -> str:
    """Expected calibration error, the diagram and its numbers."""
    found = evaluation["calibration"]
    bins, total = found["bins"], evaluation["count"]
    sure = sum(each["confidence"] * each["count"] for each in bins) / max(1, total)
    tilt = "too sure of itself" if sure > evaluation["top1"] else "not sure enough"
    rows = [
        [
            f"{each['low']:.2f} – {each['high']:.2f}",
            number(each["count"]),
            percent(each["confidence"]) if each["count"] else "",
            percent(each["accuracy"]) if each["count"] else "",
        ]
        for each in bins
    ]
    words = (
        f"<p><b>ECE {percent(found['ece'])}</b>: on average so far apart are confidence and accuracy, over {len(bins)} "
        f"bins of equal width (0 is perfect).<br>Largest gap of a bin: {percent(found['mce'])}.<br>Mean confidence "
        f"{percent(sure)}, accuracy {percent(evaluation['top1'])}: the network is {tilt}.</p>"
        "<p class='note'>A bar of the diagram reaches as high as its answers were right. Red is confidence that was "
        "not earned, pale blue accuracy beyond the confidence; on the dashed line both agree.</p>"
    )
    numbers = table(["confidence", "images", "mean confidence", "accuracy"], rows, "bins")
    details = f"<details><summary>the bins</summary>{numbers}</details>"
    body = f'<div class="beside">{_diagram(bins, total)}<div>{words}{details}</div></div>'
    return section("Calibration", body, badge)


def _diagram(bins: list[dict[str, Any]], total: int) -> str:
    x, y = Scale(0, 1, LEFT, RIGHT), Scale(0, 1, BOTTOM, TOP)
    most = max((each["count"] for each in bins), default=1) or 1
    depth = Scale(0, most, _FLOOR, BOTTOM + 24)
    parts = [_grid(x, y)]
    for each in bins:
        if not each["count"]:
            continue
        left, width = x(each["low"]) + 1, x(each["high"]) - x(each["low"]) - 2
        lower, upper = sorted((each["accuracy"], each["confidence"]))
        kind = "over" if each["confidence"] > each["accuracy"] else "under"
        label = (
            f"<title>{each['low']:.2f} to {each['high']:.2f}: {each['count']:,} images, confidence "
            f"{percent(each['confidence'])}, accuracy {percent(each['accuracy'])}</title>"
        )
        parts += [
            _bar("seen", left, y(lower), width, BOTTOM, label),
            _bar(kind, left, y(upper), width, y(lower), label),
            _bar("many", left, depth(each["count"]), width, _FLOOR, label),
        ]
    parts.append(f'<line class="ideal" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{TOP}"/>')
    counts = f"images ({number(total)} in all, {number(most)} in the tallest bar)"
    parts.append(f'<text class="tick" x="{LEFT}" y="{BOTTOM + 18}">{counts}</text>')
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg class="reliability" {size} role="img" aria-label="reliability">{"".join(parts)}</svg>'


def _bar(kind: str, left: float, top: float, width: float, bottom: float, label: str) -> str:
    place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"'
    return f'<rect class="{kind}" {place}>{label}</rect>'


def _grid(x: Scale, y: Scale) -> str:
    parts = []
    for tenth in range(0, 11, 2):
        value = tenth / 10
        across, down = f"{x(value):.1f}", f"{y(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{down}" dy="0.32em" text-anchor="end">{value:g}</text>')
        parts.append(f'<text class="tick" x="{across}" y="{_FLOOR + 14}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{_FLOOR}" y2="{_FLOOR}"/>')
    parts.append(f'<text class="tick" x="{RIGHT}" y="{_FLOOR + 30}" text-anchor="end">confidence</text>')
    parts.append(f'<text class="tick" x="{LEFT + 4}" y="{TOP + 8}">accuracy</text>')
    return "".join(parts)
