"""Images with what the network says they are and what they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from t2t_vit.report.figure import new_figure, save_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG, QUIET = "#2b2f33", "#c8102e", "#80868b"

_CELL = 1.35  # inches of a picture's side
_TEXT = 0.4  # inches of the two lines above it
_LONGEST = 18


@dataclass(frozen=True)
class Answer:
    """One image, the class predicted for it with its probability in 0..1, and its true class where that is known."""

    image: Image.Image
    predicted: str
    probability: float
    true: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether the true class is known to be another one."""
        return self.true is not None and self.true != self.predicted


def draw_pictures(answers: Sequence[Answer], output: str | Path, *, title: str = "", columns: int = 8) -> None:
    """Draw a grid of images as a PNG; wrong predictions stand in red, with a red frame.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
        ValueError: there is no image.
    """
    if not answers:
        raise ValueError("no image to draw")
    columns = min(columns, len(answers))
    rows = -(-len(answers) // columns)
    figure = new_figure(columns * _CELL, rows * (_CELL + _TEXT) + (0.45 if title else 0.0))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, answer in zip(grid.flat, answers, strict=False):
        _cell(axes, answer)
    set_title(figure, title)
    save_figure(figure, output)


def _cell(axes: "Axes", answer: Answer) -> None:
    colour = WRONG if answer.wrong else RIGHT
    image = answer.image if answer.image.mode == "L" else answer.image.convert("RGB")
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=answer.wrong, color=WRONG, linewidth=2.5)
    truth = "" if answer.true is None else f"true: {_short(answer.true)}"
    weight = "bold" if answer.wrong else "normal"
    _line(axes, 16, f"{_short(answer.predicted)}  {answer.probability:.0%}", 8.5, colour, weight)
    _line(axes, 5, truth, 7.5, QUIET, "normal")


def _line(axes: "Axes", points_above: float, text: str, size: float, colour: str, weight: str) -> None:
    """A centred line of text that far above the picture."""
    axes.annotate(
        text,
        xy=(0.5, 1.0),
        xycoords="axes fraction",
        xytext=(0, points_above),
        textcoords="offset points",
        ha="center",
        fontsize=size,
        color=colour,
        fontweight=weight,
        parse_math=False,  # a class may be called "$5"
    )


def _short(name: str) -> str:
    name = name.replace("_", " ")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
