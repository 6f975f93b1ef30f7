from pathlib import Path

import pytest
import torch
from PIL import Image

from t2t_vit import create_model, list_models
from t2t_vit.cli.main import main
from t2t_vit.model.cost import count_cost

# Multiply-adds by the formulas of the layers, attention included, at 224 pixels; the paper rounds them to 0.1 G.
MACS = {"t2t_vit_7": 1.147, "t2t_vit_14": 4.784, "t2t_vit_24": 13.662, "t2t_vit_t_14": 6.089, "t2t_vit_t_24": 14.967}


@pytest.mark.parametrize("name", MACS)
def test_multiply_adds(name: str) -> None:
    assert count_cost(name).macs / 1e9 == pytest.approx(MACS[name], abs=6e-4)


def test_parameters_and_bytes_are_the_models() -> None:
    model = create_model("t2t_vit_7", image_size=64, num_classes=5)
    cost = count_cost("t2t_vit_7", 64, 5)
    assert cost.parameters * 4 == cost.weight_bytes == sum(t.nbytes for t in model.state_dict().values())


def test_saved_bytes_grow_with_the_image() -> None:
    assert count_cost("t2t_vit_7", 128).saved_bytes == pytest.approx(
        4 * count_cost("t2t_vit_7", 64).saved_bytes, rel=0.1
    )


def test_models_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--image_size", "64"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1 : 1 + len(list_models())]] == list_models()
    assert "81.5_T2T_ViT_14.pth.tar" in out
    assert "64 x 64 pixels" in out


def test_show_writes_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(create_model("t2t_vit_7", image_size=64, num_classes=5).state_dict(), "w.pth")
    Image.new("RGB", (80, 60), "red").save("a photo.png")
    assert main(["show", "a photo.png", "--checkpoint", "w.pth"]) == 0
    assert capsys.readouterr().out == "a photo_view.png\n"
    with Image.open("a photo_view.png") as picture:
        assert picture.width == 1800


def test_show_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(create_model("t2t_vit_7", image_size=64, num_classes=5).state_dict(), tmp_path / "w.pth")
    for line in (["show", str(tmp_path), "--checkpoint", str(tmp_path / "w.pth")], ["show", "x.png"]):
        assert main(line) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    line = ["show", str(tmp_path / "a.png"), "--checkpoint", str(tmp_path / "w.pth"), "--max_pixels", "4799"]
    assert main(line) == 2
    assert "a.png: it has too many pixels, 80 x 60: max_pixels is 4,799\n" in capsys.readouterr().err
