"""A figure on paper: matplotlib without its global state, and without a display."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120
_MARGIN = 0.1  # inches around each panel


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
        raise UserError('pictures need matplotlib; install it with: pip install "t2t_vit[report]"') from error
    layout = ConstrainedLayoutEngine(w_pad=_MARGIN, h_pad=_MARGIN)
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def set_title(figure: "Figure", title: str) -> None:
    """One line over all panels; an empty one takes no room."""
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write it as PNG; equal figures give equal files.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(Path(path)) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks is drawn as a box
        figure.savefig(file, format="png", metadata={"Software": None})
