from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import t2t_vit
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.export.write import Evidence
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT
from t2t_vit.variants import find_variant

COMPARED, CALIBRATION, TRAINED = 600, 60, 1200


def _images(part: str, count: int, preprocessing: Preprocessing) -> tuple[torch.Tensor, torch.Tensor]:
    images = fashion_mnist(part, preprocessing.mode)  # type: ignore[arg-type]
    step = len(images) // count
    numbers = range(0, step * count, step)
    pixels = torch.stack([preprocessing(images.read(number)) for number in numbers])
    return pixels, torch.tensor([int(images.targets[number]) for number in numbers])


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    return Preprocessing((28, 28), crop_pct=1.0, mean=(0.3,), std=(0.35,), in_chans=1)


@pytest.fixture(scope="session")
def trained(preprocessing: Preprocessing) -> TorchPredictor:
    """A small network that tells most clothes apart: what is trained has margins, which quantisation may use up."""
    torch.manual_seed(0)
    model = t2t_vit.create_model("t2t_vit_quickstart", image_size=28, num_classes=10, in_chans=1, drop_path=0.0)
    pixels, targets = _images("train", TRAINED, preprocessing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        for batch in torch.randperm(len(pixels)).split(48):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            cross_entropy(model(preprocessing.normalize(pixels[batch])), targets[batch]).backward()
            optimizer.step()
    return TorchPredictor(model, preprocessing, fashion_mnist("val", "L").classes)


@pytest.fixture(scope="session")
def evidence(preprocessing: Preprocessing) -> Evidence:
    return Evidence(*_images("val", COMPARED, preprocessing), _images("train", CALIBRATION, preprocessing)[0])


@pytest.fixture(scope="session")
def few(evidence: Evidence) -> Evidence:
    """Enough for files in float32."""
    return Evidence(evidence.images[:8])


@pytest.fixture(scope="session")
def shallow() -> Callable[[str], T2TViT]:
    """Networks of every kind of layer, two blocks deep, for images of 32 x 48 pixels."""

    def make(arch: str) -> T2TViT:
        torch.manual_seed(0)
        row = find_variant(arch)
        row = replace(row, stages=(1, 1)) if row.stages else replace(row, depth=2)
        model = T2TViT(
            row,
            arch,
            num_classes=5,
            in_chans=3,
            image_size=(32, 48),
            drop=0.0,
            drop_path=0.0,
            drop_block=0.0,
            performer_drop=0.0,
            approximate_gelu=False,
        ).eval()
        with torch.no_grad():
            model.head.weight.mul_(20)
        return model

    return make
