"""`t2t-vit train finetune`: from weights of anybody's and a folder of anybody's pictures to a checkpoint."""

import ast
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit import create_model

Run = Callable[..., tuple[int, str, str]]
KEYS = {"device_target": "CPU", "num_parallel_workers": 0, "amp_level": "O0", "batch_size": 8, "epochs": 2}
QUICK = [f"--{key}={value}" for key, value in {**KEYS, "warmup_length": 1}.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ of two classes, 20 and 6 pictures, undivided, and foreign.pth, weights of 7 classes at 32 pixels."""
    place = tmp_path_factory.mktemp("finetune")
    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate({"cat": 20, "dog": 6}.items()):
        (place / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (30, 40, 3)) + np.array([0, 60 * number, 0])
            Image.fromarray(pixels.astype(np.uint8)).save(place / "photos" / name / f"{i}.jpg", quality=90)
    torch.manual_seed(0)
    model = create_model("t2t_vit_quickstart", num_classes=7, image_size=32)
    torch.save({"state_dict": model.state_dict()}, place / "foreign.pth")
    return place


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    monkeypatch.chdir(place)
    monkeypatch.setattr("os.fsync", lambda _: None)
    return command


def finetune(run: Run, name: str, *words: str) -> tuple[str, dict[str, torch.Tensor]]:
    line = ["finetune", "--data_url", "photos", "--pretrained", "foreign.pth", "--model_postfix", name, *QUICK, *words]
    code, _, err = run("train", *line)
    assert code == 0, err
    (path,) = Path("runs/checkpoints").glob(f"*{name}/*-2_*.ckpt")
    return err, torch.load(path, weights_only=True)["model"]


def test_a_folder_and_weights_are_enough(run: Run) -> None:
    err, tensors = finetune(run, "_plain")
    assert "taken from foreign.pth: arch t2t_vit_quickstart, image_size 32" in err
    assert "no validation folder in photos: 0.15 of each class of photos is kept for validation, 4 of 26 images" in err
    assert "training images per class: 5 (dog) to 17 (cat)" in err
    assert "classes with fewer than 10 training images: 1 of 2" in err
    assert "label_smoothing 0.1 is off, because there are 2 classes" in err
    assert "head.weight, head.bias newly initialised" in err
    assert "learning rate up to 0.0005 (layer_decay 0.75: " in err
    assert len(tensors["head.weight"]) == 2
    # The same four images when the checkpoint is measured by itself: the split is a matter of names and seed.
    (path,) = Path("runs/checkpoints").glob("*_plain/*-2_*.ckpt")
    code, out, err = run("eval", "--pretrained", str(path), "--num_parallel_workers", "0", "--device_target", "CPU")
    assert code == 0, err
    assert "4 of 26 images" in err
    with next(Path("runs/logs").glob("*_plain/history.csv")).open() as file:
        last = [row for row in csv.DictReader(file) if row["kind"] == "epoch"][-1]
    found = ast.literal_eval(out.splitlines()[-1].removeprefix("eval results: "))
    assert found["Loss"] == pytest.approx(float(last["val_loss"]), rel=1e-4)
    assert found["Top1-Acc"] == float(last["val_top1"])


def test_what_is_frozen_is_what_the_weights_hold(run: Run) -> None:
    foreign = torch.load("foreign.pth", weights_only=True)["state_dict"]
    err, tensors = finetune(run, "_frozen", "--freeze", "2", "--class_balance", "weights")
    assert "frozen: the T2T module and blocks 1 to 2" in err
    frozen = ("tokens_to_token.", "cls_token", "pos_embed", "blocks.0.", "blocks.1.")
    for name, tensor in tensors.items():
        if not name.startswith("head."):
            assert torch.equal(tensor, foreign[name]) == name.startswith(frozen), name


def test_the_first_layers_move_least(run: Run) -> None:
    foreign = torch.load("foreign.pth", weights_only=True)["state_dict"]

    def moved(tensors: dict[str, torch.Tensor], name: str) -> float:
        return (tensors[name] - foreign[name]).abs().mean().item()

    _, tensors = finetune(run, "_decay", "--layer_decay", "0.3", "--class_balance", "sampling")
    first, last = (f"blocks.{i}.mlp.fc1.weight" for i in (0, 3))
    assert moved(tensors, first) < 0.2 * moved(tensors, last)


def test_more_blocks_than_there_are(run: Run) -> None:
    line = ["finetune", "--data_url", "photos", "--pretrained", "foreign.pth", "--model_postfix", "_no", *QUICK]
    code, _, err = run("train", *line, "--freeze", "40")
    assert code == 2
    assert err.count("\n") == 1 and "freeze 40: the network has 4 blocks" in err
    assert not Path("runs/checkpoints/t2t_vit_quickstart_no").exists()
