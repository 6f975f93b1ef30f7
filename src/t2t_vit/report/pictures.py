"""Images as PNG, drawn with matplotlib: what the network says they are, and what it sees of one of them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write
from t2t_vit.installing import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[np.float32]

DOTS_PER_INCH = 120
RIGHT, WRONG, QUIET = "#2b2f33", "#c8102e", "#80868b"

_MARGIN = 0.1  # inches around each panel
_CELL = 1.35  # inches of the side of an image in the grid
_TEXT = 0.4  # inches of the two lines above it
_PANEL = 3.0  # inches of the side of a panel of the view
_LONGEST = 18  # letters of a class


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
    _save(figure, title, output)


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
    """A centred line of text that far above the figure."""
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


def draw_view(
    image: Image.Image, stages: Sequence[Picture], rollout: Picture, output: str | Path, *, title: str = ""
) -> None:
    """Draw an image, its grids of tokens as colours, and where the answer comes from, side by side, as a PNG.

    Args:
        image: as the network sees it.
        stages: (h, w, 3) in 0..1, a pixel a token.
        rollout: (h, w), any scale from 0 on.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure((2 + len(stages)) * _PANEL, _PANEL * image.height / image.width + 0.9)
    first, *middle, last = figure.subplots(1, 2 + len(stages))
    shown = image.convert("RGB")
    _panel(first, f"the image, {image.height} x {image.width}").imshow(shown)
    for axes, stage, name in zip(middle, stages, _names(len(stages)), strict=True):
        height, width = stage.shape[:2]
        _panel(axes, f"{name}, {height} x {width}").imshow(stage, interpolation="nearest")
    axes = _panel(last, "where the answer comes from")
    axes.imshow(np.asarray(shown.convert("L")), cmap="gray", vmin=0, vmax=255)
    heat = _enlarged(rollout, image.size)
    axes.imshow(heat, cmap="inferno", alpha=0.25 + 0.5 * heat, vmin=0, vmax=1)
    _save(figure, title, output)


def _names(count: int) -> list[str]:
    return [f"after attention {number}" for number in range(1, count)] + ["tokens"]


def _panel(axes: "Axes", title: str) -> "Axes":
    axes.set_axis_off()
    axes.set_title(title, fontsize=11)
    return axes


def _enlarged(values: Picture, size: tuple[int, int]) -> Picture:
    """Smooth, of `size` (width, height), from 0 at the least to 1 at the largest."""
    low, high = float(values.min()), float(values.max())
    scaled = Image.fromarray((values - low) / max(high - low, 1e-12)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(scaled, dtype=np.float32), 0, 1)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that many inches, which no other code can see.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise UserError(f"figures need matplotlib; install it with: {install_command('report')}") from error
    layout = ConstrainedLayoutEngine(w_pad=_MARGIN, h_pad=_MARGIN)
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", title: str, path: str | Path) -> None:
    """Write it as PNG, under a title unless that is empty; equal figures give equal files."""
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    with atomic_write(Path(path)) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks is drawn as a box
        figure.savefig(file, format="png", metadata={"Software": None})
