"""The grid of images with their predicted and true classes, and what the network sees of one."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from t2t_vit.report import pictures
from t2t_vit.report.pictures import QUIET, RIGHT, WRONG, Answer, draw_pictures, draw_view, new_figure

RED = tuple(int(WRONG[place : place + 2], 16) for place in (1, 3, 5))


def answer(predicted: str = "bag", true: str | None = "bag", mode: str = "L") -> Answer:
    return Answer(Image.new(mode, (28, 28), 90 if mode == "L" else "navy"), predicted, 0.875, true)


def drawn(tmp_path: Path, answers: list[Answer], **options: int) -> Image.Image:
    draw_pictures(answers, tmp_path / "pictures.png", title="test images", **options)
    return Image.open(tmp_path / "pictures.png").convert("RGB")


def caught(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn from now on."""
    figures: list[Figure] = []

    def keep(width: float, height: float) -> Figure:
        figures.append(new_figure(width, height))
        return figures[-1]

    monkeypatch.setattr(pictures, "new_figure", keep)
    return figures


def red_pixels(image: Image.Image) -> int:
    return sum(count for count, colour in image.getcolors(1 << 20) or [] if colour == RED)


def test_only_wrong_predictions_are_red(tmp_path: Path) -> None:
    assert not answer().wrong and not answer(true=None).wrong and answer(true="boot").wrong
    assert red_pixels(drawn(tmp_path, [answer(), answer(true=None)])) == 0
    one = red_pixels(drawn(tmp_path, [answer(), answer(true="boot")]))
    assert one > 400
    assert red_pixels(drawn(tmp_path, [answer(true="boot")] * 2)) > 1.8 * one


def test_what_stands_above_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = caught(monkeypatch)
    draw_pictures([answer("bag", "boot"), answer("a_coat", "a_coat"), answer("hat", None)], tmp_path / "x.png")
    (figure,) = drawn
    told = [[(text.get_text(), text.get_color(), text.get_weight()) for text in axes.texts] for axes in figure.axes]
    assert told == [
        [("bag  88%", WRONG, "bold"), ("true: boot", QUIET, "normal")],
        [("a coat  88%", RIGHT, "normal"), ("true: a coat", QUIET, "normal")],
        [("hat  88%", RIGHT, "normal"), ("", QUIET, "normal")],
    ]
    assert [all(spine.get_visible() for spine in axes.spines.values()) for axes in figure.axes] == [True, False, False]


def test_the_panels_of_the_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = caught(monkeypatch)
    stages = [np.full((side, side, 3), side / 10, dtype=np.float32) for side in (8, 4, 2)]
    rollout = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 3]], dtype=np.float32)
    draw_view(Image.new("RGB", (30, 30), "white"), stages, rollout, tmp_path / "x.png", title="a cat")
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == [
        "the image, 30 x 30",
        "after attention 1, 8 x 8",
        "after attention 2, 4 x 4",
        "tokens, 2 x 2",
        "where the answer comes from",
    ]
    shown = [np.asarray(axes.images[-1].get_array()) for axes in figure.axes]
    assert [picture.flat[0] for picture in shown[1:4]] == pytest.approx([0.8, 0.4, 0.2])
    heat = shown[4]
    assert heat.shape == (30, 30)
    assert heat[:10, :10].max() < 0.1
    assert heat[28:, 28:].min() > 0.9
    assert figure.get_suptitle() == "a cat"


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
