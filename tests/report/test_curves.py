"""The picture of a run's course."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from t2t_vit.errors import UserError
from t2t_vit.report.curves import draw_curves

HEADER = "kind,epoch,step,lr,train_loss,val_loss,val_top1,ema_loss,ema_top1\n"
STEPS = "".join(f"step,{index / 4},{index},0.00{index},{9 - index},,,,\n" for index in range(1, 9))
EPOCHS = "epoch,1,4,0.004,5,4.5,0.25,6,0.1\nepoch,2,8,0.008,1,1.5,0.75,2,0.5\n"


def drawn(tmp_path: Path, text: str) -> Image.Image:
    (tmp_path / "history.csv").write_text(text)
    draw_curves(tmp_path / "history.csv", tmp_path / "curves.png", "a run")
    return Image.open(tmp_path / "curves.png").convert("RGB")


def colours(image: Image.Image) -> set[str]:
    found = image.getcolors(1 << 20) or []
    return {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in found if isinstance(colour, tuple)}


def test_three_panels_with_all_lines(tmp_path: Path) -> None:
    image = drawn(tmp_path, HEADER + STEPS + EPOCHS)
    assert image.width == 1440 and image.height > 400
    assert {"#9aa0a6", "#1f6fb4", "#d9730d", "#3d8c40"} <= colours(image)


def test_a_run_without_evaluations_and_a_line_cut_short(tmp_path: Path) -> None:
    image = drawn(tmp_path, HEADER + STEPS + "step,2.25,9,0.0")
    assert not {"#1f6fb4", "#d9730d"} & colours(image)
    drawn(tmp_path, HEADER + "epoch,1,4,0.004,5,,,,\nepoch,x,,\n")


def test_equal_histories_give_equal_files(tmp_path: Path) -> None:
    drawn(tmp_path, HEADER + STEPS + EPOCHS)
    first = (tmp_path / "curves.png").read_bytes()
    drawn(tmp_path, HEADER + STEPS + EPOCHS)
    assert (tmp_path / "curves.png").read_bytes() == first


def test_what_is_no_history(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        draw_curves(tmp_path / "absent.csv", tmp_path / "curves.png")
    with pytest.raises(UserError, match="no row yet"):
        drawn(tmp_path, HEADER)
    assert not (tmp_path / "curves.png").exists()


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'pip install "t2t_vit\[report\]"'):
        drawn(tmp_path, HEADER + EPOCHS)
