"""Every variant at two sizes: MINDIR and .ckpt in the real MindSpore, names, shapes and numbers."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mindspore_networks import job, network, pictures
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.export.mindir import write_mindir
from t2t_vit.model import T2TViT
from t2t_vit.variants import VARIANTS
from t2t_vit.weights import read_weights
from t2t_vit.weights.mindspore_file import write_mindspore_file
from t2t_vit.weights.names import to_mindspore

Size = tuple[int, int]
HELD = Path(__file__).with_name("held_against.py")
TOLERANCE = 2e-4  # at a spread of the logits of 14


@pytest.mark.parametrize("arch", VARIANTS)
def test_every_variant_at_two_sizes(arch: str, mindspore_python: str, tmp_path: Path) -> None:
    hold(arch, [(64, 64), (96, 64)], mindspore_python, tmp_path)


def test_the_size_of_imagenet(mindspore_python: str, tmp_path: Path) -> None:
    hold("t2t_vit_7", [(224, 224)], mindspore_python, tmp_path)


def hold(arch: str, sizes: list[Size], python: str, folder: Path) -> None:
    """Against the real package: logits, names, shapes, and weights from .ckpt and back."""
    models = {f"{size[0]}": (network(arch, size), network(arch, size, seed=1)) for size in sizes}
    for stem, (model, other) in models.items():
        write_mindir(job(model), folder / f"{stem}.mindir")
        np.save(folder / f"{stem}.npy", normalised(model).numpy())
        write_mindspore_file(other.state_dict(), folder / f"{stem}.ckpt")
    found = in_mindspore(python, folder)
    for stem, (model, other) in models.items():
        assert 10 < logits(model).std() < 20
        for kind, expected in (("logits", model), ("initialised", other), ("loaded", other)):
            answers = np.load(folder / f"{stem}.{kind}.npy")
            np.testing.assert_allclose(answers, logits(expected), rtol=0, atol=TOLERANCE, err_msg=kind)
        assert found[stem]["unloaded"] == [[], []]
        expected = {name: list(value.shape) for name, value in to_mindspore(model.state_dict()).items()}
        assert found[stem]["shapes"] == expected
        saved = read_weights(folder / f"{stem}.saved.ckpt").tensors
        assert saved.keys() == other.state_dict().keys()
        assert all(torch.equal(saved[name], value) for name, value in other.state_dict().items())


def in_mindspore(python: str, folder: Path) -> dict:
    done = subprocess.run([python, str(HELD), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@torch.no_grad()
def logits(model: T2TViT) -> np.ndarray:
    return model(normalised(model)).numpy()


def normalised(model: T2TViT) -> torch.Tensor:
    return Preprocessing(model.image_size).normalize(pictures(model.image_size))
