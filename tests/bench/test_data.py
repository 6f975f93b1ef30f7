from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.bench.data import _Watched, _WatchedTransform, measure_batch_transform, measure_loader, measure_reading
from t2t_vit.bench.profiling import Laps
from t2t_vit.data.batch_transform import BatchTransform
from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.data.folder import FolderImages
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import Subset
from t2t_vit.data.loader import TrainLoader
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.samples import Request, TrainSamples

CPU = torch.device("cpu")
TRANSFORM = TrainTransform((28, 28), in_chans=1, auto_augment="rand-m9")


@pytest.fixture
def photos(tmp_path: Path) -> FolderImages:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 260, 3), dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return FolderImages(tmp_path, "L")


def names(found: dict) -> list[str]:
    return [row["name"] for row in found["parts"]]


def test_parts_of_a_folder(photos: FolderImages):
    found = measure_reading(photos, "L", TRANSFORM, batch=8, repeats=2)
    assert names(found) == ["reading", "decoding", "transforming", "collating"]
    assert sum(row["share"] for row in found["parts"]) == pytest.approx(1.0)
    seconds = sum(row["seconds_per_image"]["median"] for row in found["parts"])
    assert found["images_per_second"] == pytest.approx(1 / seconds)
    spent = {row["name"]: row["seconds_per_image"]["median"] for row in found["parts"]}
    assert spent["decoding"] > spent["reading"]  # noise of 52,000 pixels as PNG


def test_images_are_decoded_within_the_budget_of_their_set(photos: FolderImages):
    photos.budget = PixelBudget(200 * 260 - 1)
    for images in (photos, Subset(photos, np.arange(2))):
        with pytest.raises(DecodeError, match="max_pixels is 51,999"):
            _Watched(images, "L", lambda _: 1, Laps(CPU), kept=False).read(0)


def test_what_is_in_memory_is_not_read():
    found = measure_reading(fashion_mnist("train", "L"), "L", TRANSFORM, batch=8, repeats=1)
    assert names(found) == ["decoding", "transforming", "collating"]


def test_what_is_kept_is_read_before_the_clock_runs(photos: FolderImages):
    class Kept:
        classes, targets = photos.classes, photos.targets

        def __init__(self) -> None:
            self.read_first: dict[int, Image.Image] = {}

        def __len__(self) -> int:
            return len(photos)

        def read(self, index: int) -> Image.Image:
            return self.read_first.setdefault(index, photos.read(index))

        def name(self, index: int) -> str:
            return photos.name(index)

    kept = Kept()
    assert names(measure_reading(kept, "L", TRANSFORM, batch=2, repeats=1, kept=True))[0] == "decoding"
    assert len(kept.read_first) == 6  # two rounds that warm up, and one


def test_watching_changes_no_pixel(photos: FolderImages):
    request = Request(0, np.arange(8))
    laps = Laps(CPU)
    seen = TrainSamples(
        _Watched(photos, "L", lambda _: 1, laps, kept=False), _WatchedTransform(TRANSFORM, laps), seed=3
    )[request]
    assert np.array_equal(seen.images, TrainSamples(photos, TRANSFORM, seed=3)[request].images)


def test_the_way_of_a_batch():
    transform = BatchTransform(Preprocessing((28, 28), in_chans=1), 10)
    found = measure_batch_transform(transform, 1, 4, CPU, repeats=1)
    assert names(found) == ["batch transform"]
    assert found["images_per_second"] > 0


def test_a_loader_is_asked_over_the_end_of_its_epoch():
    images = fashion_mnist("train", "L")
    transform = BatchTransform(Preprocessing((28, 28), in_chans=1), 10)
    loader = TrainLoader(images, TrainTransform((28, 28), in_chans=1), transform, batch_size=6000)
    found = measure_loader(loader, workers=0, repeats=3)
    assert len(loader) == 2
    assert found["workers"] == 0
    assert 0 < found["images_per_second"]["low"] <= found["images_per_second"]["median"]
