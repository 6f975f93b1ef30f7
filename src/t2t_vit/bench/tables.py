"""The tables of `t2t-vit bench`."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from t2t_vit.tables import print_table

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
        _print_table(f"{what}: {title}", ("stage", *SPEED, "share"), rows)
    whole = [
        [row["name"], *_speed(row), f"{row['images_per_second']:,.1f}", _bytes(row["memory"])] for row in found["whole"]
    ]
    _print_table(f"{what}: the whole network", ("", *SPEED, "images/s", "peak memory"), whole)
    _print(_rates(found))


def print_step(found: Results) -> None:
    """The parts of a training step, and the step as a whole."""
    step = found["step"]
    form = "compiled" if found["compiled"] else "eager"
    what = f"{found['config']['arch']}, training step of {step['images']} images, {found['precision']}, {form}"
    rows = [[row["name"], _milliseconds(row["seconds"]), _percent(row["share"])] for row in step["parts"]]
    _print_table(f"{what}, {found['device']}", ("part", "ms (least to greatest)", "share"), rows)
    _print_table("", ("", *SPEED, "images/s", "peak memory"), [
        ["step", *_speed(step), f"{step['images_per_second']:,.1f}", _bytes(step["memory"])]
    ])  # fmt: skip
    if step["synchronisations"] is not None:
        _print(f"the host waited for the device {step['synchronisations']} times in {step['steps']} steps")
    if found["compiled"]:
        graphs = step["graphs"]
        _print(f"graphs {graphs['graphs']}, breaks {graphs['breaks']}, compiled again later {graphs['recompiled']}")
    _print(_rates(found))


def print_reading(found: Results) -> None:
    """What one core does for an image, by part."""
    _print_parts(f"one core, {found['images']:,} training images", "images/s a core", found["reading"])


def print_kept(found: Results) -> None:
    """The same for images that are kept in memory."""
    _print_parts("one core, images kept in memory (later epochs)", "images/s a core", found["kept"])


def print_on_device(found: Results) -> None:
    """What the device does with a batch."""
    _print_parts(f"a batch, {found['device']}", "images/s", found["on_device"])


def print_loader(row: Row) -> None:
    """What the loader delivers with one number of workers."""
    _print(f"loader, {_workers(row)}: {_spread_rate(row['images_per_second'])} images/s, first epoch")


def print_step_of_data(found: Results) -> None:
    """What a training step takes, and how many times that the loader delivers."""
    takes = found["step"]["images_per_second"]
    delivered = ", ".join(
        f"{row['images_per_second']['median'] / takes:.2f} x with {_workers(row)}" for row in found["loader"]
    )
    what = f"training step, {found['config']['arch']}, {found['precision']}"
    _print(f"{what}: {takes:,.1f} images/s; the loader delivers {delivered}")


def _print_parts(title: str, rate: str, found: Results) -> None:
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
    _print_table(title, ("part", "ms per image (least to greatest)", rate, "share"), rows)


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


def _workers(row: Row) -> str:
    return "1 worker" if row["workers"] == 1 else f"{row['workers']} workers"


def _spread_rate(rate: dict[str, float]) -> str:
    return f"{rate['median']:,.1f}  ({rate['low']:,.1f} to {rate['high']:,.1f})"


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


def _print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print_table(heads, rows, title=title)
    _print()


def _print(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
