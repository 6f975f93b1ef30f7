"""From a file to answers, for people who want no modules."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import t2t_vit
from t2t_vit.data import image_memory
from t2t_vit.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT
from t2t_vit.precision import choose_precision

CLASSES = tuple(f"class {index}" for index in range(10))


def network(**options: Any) -> T2TViT:
    torch.manual_seed(0)
    return t2t_vit.create_model("t2t_vit_7", **{"image_size": 32, "num_classes": 10, **options}).eval()


def checkpoint(path: Path, model: T2TViT | None = None, **changes: Any) -> Path:
    """Of `changes`, settings that are None are left out."""
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
        "config": {key: value for key, value in {**config, **changes}.items() if value is not None},
        "classes": list(CLASSES),
        "model": (model or network()).state_dict(),
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


def test_every_setting_of_our_checkpoint_is_the_networks(tmp_path: Path) -> None:
    """Sides, channels, means and deviations that all differ, and the GELU of weights that do not say."""
    grey = network(image_size=(32, 48), in_chans=1)
    path = checkpoint(
        tmp_path / "a.ckpt", grey, image_size=[32, 48], in_chans=1, crop_pct=0.7, mean=[0.2], std=[0.6],
        disable_approximate_gelu=None,
    )  # fmt: skip
    predictor = t2t_vit.load(path)
    assert isinstance(predictor, TorchPredictor) and isinstance(predictor.model, T2TViT)
    assert predictor.preprocessing == Preprocessing((32, 48), 0.7, (0.2,), (0.6,), 1)
    assert (predictor.model.image_size, predictor.model.in_chans) == ((32, 48), 1)
    images = torch.randint(256, (2, 1, 32, 48), dtype=torch.uint8)
    expected = grey((images.float() / 255 - 0.2) / 0.6).detach()
    torch.testing.assert_close(predictor.logits(images), expected, atol=1e-4, rtol=1e-4)
    colours = checkpoint(tmp_path / "b.ckpt", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    found = t2t_vit.load(colours).preprocessing
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("disabled", [True, False, None])
def test_the_gelu_is_the_files_and_by_erf_where_it_does_not_say(tmp_path: Path, disabled: bool | None) -> None:
    predictor = t2t_vit.load(checkpoint(tmp_path / "a.ckpt", disable_approximate_gelu=disabled))
    assert isinstance(predictor, TorchPredictor) and isinstance(predictor.model, T2TViT)
    assert predictor.model.approximate_gelu is (disabled is False)


def test_the_copy_that_is_asked_for(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "ema": {name: tensor * 2 for name, tensor in content["model"].items()}}, path)
    for which, factor in (("auto", 2), ("ema", 2), ("raw", 1)):
        predictor = t2t_vit.load(path, which=which)  # type: ignore[arg-type]
        assert isinstance(predictor, TorchPredictor)
        assert torch.equal(predictor.model.cls_token, content["model"]["cls_token"] * factor)


@pytest.mark.parametrize(("amp_level", "name"), [("O0", "O0"), ("bf16", "bf16")])
def test_the_precision_is_the_one_that_is_asked_for(tmp_path: Path, amp_level: str, name: str) -> None:
    predictor = t2t_vit.load(checkpoint(tmp_path / "a.ckpt"), amp_level=amp_level)
    assert isinstance(predictor, TorchPredictor)
    expected = choose_precision(amp_level, torch.device("cpu"), training=False)
    assert predictor.precision == expected and name in predictor.precision.name


@pytest.mark.parametrize("workers", [0, 1])
def test_the_largest_image_is_the_one_that_is_asked_for(workers: int, tmp_path: Path) -> None:
    path, image = checkpoint(tmp_path / "a.ckpt"), tmp_path / "large.png"
    Image.new("RGB", (40, 30)).save(image)
    refusal = "it has too many pixels, 40 x 30: max_pixels is 1,199"
    for given in (image, image.read_bytes(), io.BytesIO(image.read_bytes())):
        with pytest.raises(UserError, match=refusal):
            t2t_vit.predict(given, path, max_pixels=1199)  # type: ignore[call-overload]
    (answer,) = t2t_vit.load(path, max_pixels=1199).stream([image], workers=workers)
    assert answer.reason == refusal
    large = t2t_vit.load(path, max_pixels=1200)
    (answer,) = large.stream([image], workers=workers)
    assert answer.predictions == (large.predict(image),)
    with pytest.raises(UserError, match="max_pixels"):
        t2t_vit.load(path, max_pixels=-1)


def test_what_an_error_advises_opens_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, image = checkpoint(tmp_path / "a.ckpt"), tmp_path / "large.qoi"
    Image.new("RGB", (40, 30)).save(image)
    monkeypatch.setattr(image_memory, "LEAST", 0)
    with pytest.raises(UserError, match="to read it, set max_pixels to") as refused:
        t2t_vit.predict(image, path)
    advised = re.search(r"set max_pixels to (\d+) or more", str(refused.value))
    assert advised
    network = t2t_vit.load(path, max_pixels=int(advised[1]))
    (answer,) = network.stream([image])
    assert answer.predictions == (network.predict(image),)


def test_foreign_weights_get_the_preprocessing_of_imagenet(tmp_path: Path) -> None:
    torch.save({"net": {f"module.{k}": v for k, v in network().state_dict().items()}}, tmp_path / "w.pth")
    predictor = t2t_vit.load(tmp_path / "w.pth", arch="t2t_vit_7")
    assert predictor.classes is None
    assert (predictor.preprocessing.mean, predictor.preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
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
    with pytest.raises(UserError, match="truncated"):
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


def test_a_file_of_a_size_that_is_no_square_says_which_would_fit(tmp_path: Path) -> None:
    model = network(num_classes=2, image_size=(96, 160))
    state = model.state_dict()
    torch.save(state, tmp_path / "wide.pth")
    told = r"its pos_embed has 60 positions .* images with 60 tokens, such as 96 160 or 160 96$"
    with pytest.raises(UserError, match=told):
        t2t_vit.load(tmp_path / "wide.pth")
    opened = t2t_vit.load((tmp_path / "wide.pth").read_bytes(), image_size=(96, 160))
    images = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        torch.testing.assert_close(opened.model(images), model(images))
    del state["pos_embed"]
    torch.save(state, tmp_path / "without.pth")
    with pytest.raises(UserError, match=r"because it has no pos_embed; give image_size$"):
        t2t_vit.load(tmp_path / "without.pth")
    assert t2t_vit.load(tmp_path / "without.pth", image_size=64).model.image_size == (64, 64)
