"""The grid of images with their predicted and true classes, and what the network sees of one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2t_vit.report.pictures import WRONG, Answer, draw_pictures, draw_view

RED = tuple(int(WRONG[place : place + 2], 16) for place in (1, 3, 5))


def answer(predicted: str = "bag", true: str | None = "bag", mode: str = "L") -> Answer:
    return Answer(Image.new(mode, (28, 28), 90 if mode == "L" else "navy"), predicted, 0.875, true)


def drawn(tmp_path: Path, answers: list[Answer], **options: int) -> Image.Image:
    draw_pictures(answers, tmp_path / "pictures.png", title="test images", **options)
    return Image.open(tmp_path / "pictures.png").convert("RGB")


def red_pixels(image: Image.Image) -> int:
    return sum(count for count, colour in image.getcolors(1 << 20) or [] if colour == RED)


def test_only_wrong_predictions_are_red(tmp_path: Path) -> None:
    assert not answer().wrong and not answer(true=None).wrong and answer(true="boot").wrong
    assert red_pixels(drawn(tmp_path, [answer(), answer(true=None)])) == 0
    one = red_pixels(drawn(tmp_path, [answer(), answer(true="boot")]))
    assert one > 400
    assert red_pixels(drawn(tmp_path, [answer(true="boot")] * 2)) > 1.8 * one


@pytest.mark.parametrize(("count", "columns", "rows"), [(3, 8, 1), (8, 4, 2), (9, 4, 3)])
def test_the_grid_has_room_for_all(tmp_path: Path, count: int, columns: int, rows: int) -> None:
    image = drawn(tmp_path, [answer()] * count, columns=columns)
    assert image.width == round(min(count, columns) * 1.35 * 120)
    assert image.height == pytest.approx((rows * 1.75 + 0.45) * 120, abs=2)


def test_colours_long_names_and_odd_letters(tmp_path: Path) -> None:
    image = drawn(tmp_path, [answer("a very long name of a class", "$5 and $6", mode="RGB"), answer("外套", "袋")])
    assert (0, 0, 128) in {colour for _, colour in image.getcolors(1 << 20) or []}


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image"):
        draw_pictures([], tmp_path / "pictures.png")


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
