"""Images on the device: the batches that workers would have made, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.data import resident as module
from t2t_vit.data.batch_transform import BatchTransform
from t2t_vit.data.decode import Mode
from t2t_vit.data.erasing import RandomErasing
from t2t_vit.data.folder import FolderImages
from t2t_vit.data.images import ArrayImages, ImageSet
from t2t_vit.data.loader import TrainLoader
from t2t_vit.data.mixing import Mixing
from t2t_vit.data.opening import open_images
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.resident import resident
from t2t_vit.data.transforms import TrainTransform

CPU = torch.device("cpu")


def embedded(count: int = 60) -> ImageSet:
    return open_images("val", dataset="FashionMNIST", in_chans=1, num_samples=count)


def like_cifar(count: int = 50) -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    mode: Mode = "RGB"
    return ArrayImages(pixels, np.arange(count) % 10, [str(i) for i in range(10)], mode, "like CIFAR")


def loader(images: ImageSet, size: int, resides: bool, device: torch.device = CPU, **options: object) -> TrainLoader:
    channels = 1 if images.read(0).mode == "L" else 3
    transform = TrainTransform((size, size), channels, min_crop=0.3)
    batch = BatchTransform(Preprocessing((size, size), in_chans=channels), 10, RandomErasing(0.5), Mixing(0.8, 1.0))
    return TrainLoader(images, transform, batch, batch_size=10, resides=resides, device=device, **options)


def assert_same(here: TrainLoader, there: TrainLoader, start: int = 0) -> None:
    assert len(here) == len(there) > start
    for epoch in (0, 3):
        batches = zip(here.epoch(epoch, start), there.epoch(epoch, start), strict=True)
        assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in batches)


@pytest.mark.parametrize("size", [28, 40])
def test_embedded_images(size: int) -> None:
    assert_same(loader(embedded(), size, False), loader(embedded(), size, True))


def test_colours_larger_balanced_resumed_and_shared() -> None:
    assert_same(loader(like_cifar(), 64, False), loader(like_cifar(), 64, True))
    assert_same(loader(like_cifar(), 24, False, balanced=True), loader(like_cifar(), 24, True, balanced=True), start=2)
    shares = [loader(like_cifar(), 32, flag, rank=1, world=2) for flag in (False, True)]
    assert_same(shares[0], shares[1])


def test_it_is_said_and_no_worker_starts() -> None:
    notes: list[str] = []
    there = loader(embedded(), 28, True, workers=2, note=notes.append)
    assert notes == ["the 60 training images stay on the device, and are cropped and flipped there"]
    assert there._reader.num_workers == 0


@pytest.mark.parametrize(
    "transform",
    [
        TrainTransform((28, 28), 1, color_jitter=0.1),
        TrainTransform((28, 28), 1, auto_augment="rand-m9"),
        TrainTransform((28, 28), 1, train_interpolation="nearest"),
        TrainTransform((28, 28), 4),
    ],
)
def test_what_pillow_has_to_do_stays_with_it(transform: TrainTransform) -> None:
    assert resident(embedded(), transform, 0, CPU) is None


def test_images_of_several_sizes_or_too_many_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (9 + number // 2, 9)).save(tmp_path / f"a/{number}.png")
    assert resident(FolderImages(tmp_path, "RGB"), TrainTransform((8, 8)), 0, CPU) is None
    plain = TrainTransform((28, 28), 1)
    assert resident(embedded(), plain, 0, CPU) is not None
    monkeypatch.setattr(module, "MOST_BYTES", 60 * 28 * 28 - 1)
    assert resident(embedded(), plain, 0, CPU) is None


def test_another_pillow_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.resized_crops
    monkeypatch.setattr(module, "resized_crops", lambda *arguments: real(*arguments) ^ 1)
    assert resident(embedded(), TrainTransform((28, 28), 1), 0, CPU) is None


@pytest.mark.gpu
def test_a_gpu_crops_as_pillow_does() -> None:
    cuda = torch.device("cuda")
    for images, size in ((embedded(), 28), (like_cifar(), 64)):
        there = resident(images, TrainTransform((size, size), 1 if size == 28 else 3), 0, cuda)
        assert there is not None  # it compares by itself
        for ahead in (True, False):
            notes: list[str] = []
            batches = loader(images, size, True, cuda, ahead=ahead, note=notes.append).epoch(0)
            assert len(notes) == 1
            for (a, b), (c, d) in zip(loader(images, size, False).epoch(0), batches, strict=True):
                torch.testing.assert_close(c.cpu(), a)
                torch.testing.assert_close(d.cpu(), b)
