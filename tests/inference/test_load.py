"""From a file to answers, for people who want no modules."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import t2t_vit
from t2t_vit.data.preprocessing import IMAGENET_MEAN
from t2t_vit.errors import UserError
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT

CLASSES = tuple(f"class {index}" for index in range(10))


def network(**options: Any) -> T2TViT:
    torch.manual_seed(0)
    return t2t_vit.create_model("t2t_vit_7", **{"image_size": 32, "num_classes": 10, **options}).eval()


def checkpoint(path: Path, **changes: Any) -> Path:
    config = {
        "arch": "t2t_vit_7",
        "num_classes": 0,
        "image_size": 32,
        "in_chans": 3,
        "crop_pct": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "disable_approximate_gelu": False,
    }
    content = {
        "format": "t2t_vit",
        "version": 1,
        "config": {**config, **changes},
        "classes": list(CLASSES),
        "model": network().state_dict(),
        "ema": None,
    }
    torch.save(content, path)
    return path


def test_our_checkpoint_brings_everything(tmp_path: Path) -> None:
    notes: list[str] = []
    predictor = t2t_vit.load(checkpoint(tmp_path / "a.ckpt"), note=notes.append)
    assert isinstance(predictor, TorchPredictor) and notes == []
    assert predictor.classes == CLASSES
    assert (predictor.preprocessing.image_size, predictor.preprocessing.crop_pct) == ((32, 32), 1.0)
    assert predictor.preprocessing.mean == (0.5, 0.5, 0.5)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    tanh = network(approximate_gelu=True)
    expected = tanh(predictor.preprocessing.normalize(images)).detach()
    torch.testing.assert_close(predictor.logits(images), expected, atol=1e-5, rtol=1e-5)  # another kernel, packed
    answer = predictor.predict(Image.new("RGB", (50, 40), "orange"))
    assert answer.name == CLASSES[answer.index] and 0 < answer.probability < 1


def test_foreign_weights_get_the_preprocessing_of_imagenet(tmp_path: Path) -> None:
    torch.save({"net": {f"module.{k}": v for k, v in network().state_dict().items()}}, tmp_path / "w.pth")
    predictor = t2t_vit.load(tmp_path / "w.pth", arch="t2t_vit_7")
    assert predictor.classes is None and predictor.preprocessing.mean == IMAGENET_MEAN
    assert (predictor.preprocessing.image_size, predictor.preprocessing.crop_pct) == ((32, 32), 0.9)


def test_another_size_and_class_count_refit_and_say_so(tmp_path: Path) -> None:
    notes: list[str] = []
    path = checkpoint(tmp_path / "a.ckpt")
    predictor = t2t_vit.load(path, image_size=(48, 64), num_classes=4, crop_pct=0.5, note=notes.append)
    assert predictor.preprocessing.image_size == (48, 64) and predictor.preprocessing.crop_pct == 0.5
    assert predictor.classes is None
    assert predictor.logits(torch.zeros(1, 3, 48, 64, dtype=torch.uint8)).shape == (1, 4)
    assert len(notes) == 2 and "3 x 4 tokens" in notes[0] and "4 classes is new (that of the file has 10)" in notes[1]


def test_contradictions_and_unknowns(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="not of arch 't2t_vit_14'"):
        t2t_vit.load(path, arch="t2t_vit_14")
    with pytest.raises(UserError, match="give image_size"):
        torch.save(network(image_size=(32, 64)).state_dict(), tmp_path / "flat.pth")
        t2t_vit.load(tmp_path / "flat.pth")
    with pytest.raises(UserError, match="give num_classes"):
        headless = {name: tensor for name, tensor in network().state_dict().items() if "head" not in name}
        torch.save(headless, tmp_path / "headless.pth")
        t2t_vit.load(tmp_path / "headless.pth")
    with pytest.raises(UserError, match="mean has 2 values"):
        t2t_vit.load(checkpoint(tmp_path / "b.ckpt", mean=[0.5, 0.5]))


def test_what_only_looks_like_onnx(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="is not an ONNX model"):
        t2t_vit.load(tmp_path / "text.onnx")
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x0a\x12\x07t2t_vit\x1a")
    with pytest.raises(UserError, match="cut short"):
        t2t_vit.load(tmp_path / "cut.onnx")


HEAVY = ("timm", "torchvision", "tensorboard", "rich", "yaml", "matplotlib", "onnx", "onnxruntime")


def test_the_first_prediction_waits_for_nothing_it_does_not_need(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    program = (
        "import sys, t2t_vit\n"
        f"t2t_vit.load({str(path)!r}).predict({str(tmp_path / 'x.png')!r})\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""


def test_lower_precision_gives_nearly_the_same_answers(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    exact, fast = t2t_vit.load(path).logits(images), t2t_vit.load(path, amp_level="bf16").logits(images)
    assert fast.dtype == torch.float32 and 0 < (exact - fast).abs().max() < 0.05
    with pytest.raises(UserError, match="amp_level"):
        t2t_vit.load(path, amp_level="O7")
