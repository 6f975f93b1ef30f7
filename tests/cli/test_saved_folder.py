"""The commands on a folder that `save_pretrained` wrote: what no configuration key names counts, too."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import t2t_vit
from t2t_vit.cli.main import main
from t2t_vit.data.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(
    (28, 28), crop_pct=0.6, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), interpolation="nearest"
)


def logits(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Of the modules as they stand, in eval mode."""
    return model.eval()(PREPROCESSING.normalize(images)).detach()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `saved`, a network on the mean of its tokens with the tanh GELU, and 40 `images`."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = t2t_vit.create_model("t2t_vit_quickstart", num_classes=7, image_size=28)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.GELU):
            model.set_submodule(name, torch.nn.GELU("tanh"))
    model.global_pool = "avg"
    model.save_pretrained("saved", preprocessing=PREPROCESSING.to_dict())
    rng = np.random.default_rng(0)
    Path("images").mkdir()
    for number in range(40):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        coarse.resize((90, 70), Image.Resampling.BICUBIC).save(f"images/{number:02}.png")
    return tmp_path


@pytest.mark.parametrize("source", ["saved", "saved/model.safetensors"])
def test_infer(place: Path, source: str) -> None:
    paths = sorted((place / "images").iterdir())
    images = torch.stack([PREPROCESSING(Image.open(path)) for path in paths])
    model = t2t_vit.from_pretrained(place / "saved")
    expected = logits(model, images).argmax(dim=1).tolist()
    model.global_pool = "token"
    assert sum(one != other for one, other in zip(expected, logits(model, images).argmax(dim=1), strict=True)) > 5
    assert main(["infer", "images", "--checkpoint", source, "--output", "p.json", "--amp_level", "O0"]) == 0
    found = json.loads((place / "p.json").read_text())
    assert [found[f"images/{path.name}"] for path in paths] == expected


@pytest.mark.thorough
def test_export(place: Path) -> None:
    model = t2t_vit.from_pretrained(place / "saved")
    images = torch.randint(256, (3, 3, 28, 28), dtype=torch.uint8)
    expected = logits(model, images)
    assert main(["export", "--config", "quickstart", "--file_format", "ONNX", "--pretrained", "saved"]) == 0
    session = onnxruntime.InferenceSession("t2t_vit_quickstart.onnx")
    [found] = session.run(None, {"images": PREPROCESSING.normalize(images).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)
    assert t2t_vit.load("t2t_vit_quickstart.onnx").preprocessing == PREPROCESSING


def test_export_of_weights_brings_it_all(place: Path) -> None:
    assert main(["export", "--config", "quickstart", "--file_format", "SAFETENSORS", "--pretrained", "saved"]) == 0
    exported = place / "t2t_vit_quickstart.safetensors"
    again, images = t2t_vit.load(exported), torch.randint(256, (3, 3, 28, 28), dtype=torch.uint8)
    assert again.preprocessing == PREPROCESSING
    expected = logits(t2t_vit.from_pretrained(place / "saved"), images)
    torch.testing.assert_close(again.logits(images), expected, atol=1e-4, rtol=1e-4)
    saved = load_file(place / "saved" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in load_file(exported).items())


def test_weights_show_names_what_it_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((place / "saved" / "config.json").read_text())
    (place / "saved" / "config.json").write_text(json.dumps({**config, "temperature": 2}))
    assert main(["weights", "show", "saved"]) == 0
    out = capsys.readouterr().out
    assert "global_pool: avg" in out and "disable_approximate_gelu: False" in out
    assert "not read   temperature\n" in out


def test_training_from_another_pool_says_so(place: Path) -> None:
    from t2t_vit.assembly.build import start_from
    from t2t_vit.weights import read_weights

    model = t2t_vit.create_model("t2t_vit_quickstart", num_classes=7, image_size=28)
    told = start_from(model, read_weights(place / "saved"), tuple("abcdefg"))
    assert "another pool of the tokens (avg)" in told[-1]
    assert torch.equal(model.head.weight, t2t_vit.from_pretrained(place / "saved").head.weight)
