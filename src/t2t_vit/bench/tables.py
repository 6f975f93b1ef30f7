"""The tables of `t2t-vit bench`."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDEST = 150  # where nobody looks, lines are not broken
NOTHING = "-"
SPEED = ("GFLOP", "ms (least to greatest)", "TFLOP/s", "of data sheet", "of measured product")
Results = dict[str, Any]
Row = dict[str, Any]


def print_network(found: Results) -> None:
    """The stages, and the network as a whole."""
    size = found["config"]["batch_size"]
    what = f"{found['config']['arch']}, batch {size}, {found['precision']}, {found['device']}"
    stages = found["stages"]
    for direction, title in (("forward", "forward (inference)"), ("backward", "backward, of the network in training")):
        rows = [[row["name"], *_speed(row[direction]), _percent((row[direction] or {}).get("share"))] for row in stages]
        _show(f"{what}: {title}", ("stage", *SPEED, "share"), rows)
    whole = [
        [row["name"], *_speed(row), f"{row['images_per_second']:,.1f}", _bytes(row["memory"])] for row in found["whole"]
    ]
    _show(f"{what}: the whole network", ("", *SPEED, "images/s", "peak memory"), whole)
    _print(_rates(found))


def print_step(found: Results) -> None:
    """The parts of a training step, and the step as a whole."""
    step = found["step"]
    form = "compiled" if found["compiled"] else "eager"
    what = f"{found['config']['arch']}, training step of {step['images']} images, {found['precision']}, {form}"
    rows = [[row["name"], _milliseconds(row["seconds"]), _percent(row["share"])] for row in step["parts"]]
    _show(f"{what}, {found['device']}", ("part", "ms (least to greatest)", "share"), rows)
    _show("", ("", *SPEED, "images/s", "peak memory"), [
        ["step", *_speed(step), f"{step['images_per_second']:,.1f}", _bytes(step["memory"])]
    ])  # fmt: skip
    if step["synchronisations"] is not None:
        _print(f"the host waited for the device {step['synchronisations']} times in {step['steps']} steps")
    if found["compiled"]:
        graphs = step["graphs"]
        _print(f"graphs {graphs['graphs']}, breaks {graphs['breaks']}, compiled again later {graphs['recompiled']}")
    _print(_rates(found))


def print_data(found: Results) -> None:
    """What one core does for an image, what the device does, what the loader delivers and what a step takes."""
    _show_parts(f"one core, {found['images']:,} training images", "images/s a core", found["reading"])
    if found["kept"] is not None:
        _show_parts("one core, images kept in memory (later epochs)", "images/s a core", found["kept"])
    _show_parts(f"a batch, {found['device']}", "images/s", found["on_device"])
    takes = found["step"]["images_per_second"]
    rows = [
        [f"loader, {row['workers']} workers", *_delivered(row["images_per_second"], takes)] for row in found["loader"]
    ]
    name = f"training step, {found['config']['arch']}, {found['precision']}"
    rows.append([name, f"{takes:,.1f}", NOTHING])
    _show("delivered and taken, first epoch", ("", "images/s", "of what a step takes"), rows)


def _show_parts(title: str, rate: str, found: Results) -> None:
    rows = [
        [
            row["name"],
            _milliseconds(row["seconds_per_image"]),
            f"{row['images_per_second']:,.0f}",
            _percent(row["share"]),
        ]
        for row in found["parts"]
    ]
    rows.append(["together", f"{1e3 / found['images_per_second']:.3g}", f"{found['images_per_second']:,.0f}", ""])
    _show(title, ("part", "ms an image (least to greatest)", rate, "share"), rows)


def _speed(row: Row | None) -> list[str]:
    """Cells of the columns `SPEED`; a stage without products has time, but no rate."""
    if row is None:
        return [NOTHING] * len(SPEED)
    cells = [f"{row['flops'] / 1e9:,.3g}", _milliseconds(row["seconds"])]
    if not row["flops"]:
        return [*cells, NOTHING, NOTHING, NOTHING]
    return [
        *cells,
        f"{row['flops_per_second'] / 1e12:.3g}",
        *map(_percent, (row["mfu_datasheet"], row["mfu_measured"])),
    ]


def _delivered(rate: dict[str, float], takes: float) -> list[str]:
    return [f"{rate['median']:,.1f}  ({rate['low']:,.1f} to {rate['high']:,.1f})", f"{rate['median'] / takes:.2f} x"]


def _milliseconds(spread: dict[str, float]) -> str:
    median, low, high = (f"{1e3 * spread[name]:.3g}" for name in ("median", "low", "high"))
    return f"{median}  ({low} to {high})"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _bytes(count: int | None) -> str:
    return NOTHING if count is None else f"{count / 1e6:,.0f} MB"


def _rates(found: Results) -> str:
    rates = found["rates"]
    sheet = rates["datasheet"]
    given = f"data sheet {sheet / 1e12:,.4g}" if sheet else "data sheet not known"
    product = f"a {rates['side']}-cubed product does {rates['measured'] / 1e12:,.3g}"
    return f"TFLOP/s in {rates['dtype']}: {given}, {product}"


def _show(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*heads, box=None, pad_edge=False, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    if title:
        _print(title)
    _console().print(table)
    _print("")


def _print(text: str) -> None:
    _console().print(text, highlight=False, markup=False)


def _console() -> Console:
    """Standard output as it is now."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDEST, emoji=False, markup=False)
