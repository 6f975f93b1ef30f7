"""What the network sees of one image, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.report.figure import new_figure, save_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Picture = NDArray[np.float32]

_PANEL = 3.0  # inches of a panel's side


def draw_view(
    image: Image.Image, stages: Sequence[Picture], rollout: Picture, output: str | Path, *, title: str = ""
) -> None:
    """Draw an image, its grids of tokens as colours, and where the answer looks, side by side, as a PNG.

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
    axes = _panel(last, "where the answer looks")
    axes.imshow(np.asarray(shown.convert("L")), cmap="gray", vmin=0, vmax=255)
    heat = _enlarged(rollout, image.size)
    axes.imshow(heat, cmap="inferno", alpha=0.25 + 0.5 * heat, vmin=0, vmax=1)
    set_title(figure, title)
    save_figure(figure, output)


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
