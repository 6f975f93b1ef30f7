from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2t_vit.report.view import draw_view


@pytest.mark.parametrize(("mode", "size"), [("RGB", (96, 64)), ("L", (28, 28))])
def test_five_panels(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    stages = [np.full((8, 12, 3), shade, dtype=np.float32) for shade in (0.1, 0.5, 0.9)]
    rollout = np.arange(6, dtype=np.float32).reshape(2, 3)
    draw_view(Image.new(mode, size, "white"), stages, rollout, tmp_path / "view.png", title="a cat (90%)")
    with Image.open(tmp_path / "view.png") as drawn:
        picture = np.asarray(drawn.convert("L"))
    assert picture.shape[1] == 1800
    middle = picture[picture.shape[0] // 2]
    for shade in (0.1, 0.5, 0.9):
        assert (np.abs(middle.astype(int) - round(255 * shade)) <= 2).sum() > 100, shade
