"""The course of a run as a picture: loss, accuracy and learning rate over its epochs."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t2t_vit.errors import UserError
from t2t_vit.report.figure import new_figure, save_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, RAW, EMA, RATE = "#9aa0a6", "#1f6fb4", "#d9730d", "#3d8c40"

Row = dict[str, str]
Points = tuple[list[float], list[float]]


def draw_curves(history: str | Path, output: str | Path, title: str = "") -> None:
    """Draw the `history.csv` of a run's logs folder as a PNG with three panels.

    Rows of kind `step` give the training loss and the learning rate, rows of kind `epoch` the evaluations of the
    trained weights (`val_loss`, `val_top1`) and of their moving average (`ema_loss`, `ema_top1`). Empty cells are
    left out.

    Raises:
        UserError: there is no such file, nothing is in it yet, or matplotlib is not installed.
    """
    rows = _read(Path(history))
    figure = new_figure(12, 3.8)
    loss, accuracy, rate = figure.subplots(1, 3)
    by_step, by_epoch = (_of_kind(rows, kind) for kind in ("step", "epoch"))

    _line(loss, _points(by_step, "train_loss") or _points(by_epoch, "train_loss"), "training", TRAIN)
    _line(loss, _points(by_epoch, "val_loss"), "validation", RAW)
    _line(loss, _points(by_epoch, "ema_loss"), "validation, EMA weights", EMA)
    _finish(loss, "Loss")

    _line(accuracy, _percent(_points(by_epoch, "val_top1")), "validation", RAW)
    _line(accuracy, _percent(_points(by_epoch, "ema_top1")), "validation, EMA weights", EMA)
    _finish(accuracy, "Top-1 accuracy, %")

    _line(rate, _points(by_step, "lr") or _points(by_epoch, "lr"), "", RATE)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    _finish(rate, "Learning rate")
    set_title(figure, title)
    save_figure(figure, output)


def _read(history: Path) -> list[Row]:
    try:
        with history.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{history}: cannot be read as the history of a run ({error})") from error
    if not rows:
        raise UserError(f"{history}: holds no row yet; the run logged nothing")
    return rows


def _of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.get("kind") == kind]


def _points(rows: Sequence[Row], column: str) -> Points | None:
    """Epochs and values where both are numbers; None where there are none."""
    pairs = [(_number(row.get("epoch")), _number(row.get(column))) for row in rows]
    known = [(epoch, value) for epoch, value in pairs if epoch is not None and value is not None]
    return ([epoch for epoch, _ in known], [value for _, value in known]) if known else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:  # a line that a crash cut short
        return None


def _percent(points: Points | None) -> Points | None:
    return points and (points[0], [100 * value for value in points[1]])


def _line(axes: "Axes", points: Points | None, label: str, colour: str) -> None:
    if points is None:
        return
    few = len(points[0]) <= 40 and label.startswith("validation")
    axes.plot(*points, label=label, color=colour, linewidth=1.8, marker="o" if few else "", markersize=3.5)


def _finish(axes: "Axes", title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)
    axes.grid(color="#e4e6e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=9)
    if not axes.lines:
        axes.text(0.5, 0.5, "not evaluated", ha="center", va="center", transform=axes.transAxes, color=TRAIN)
