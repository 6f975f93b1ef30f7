"""`bench data`: what one core does for a training image, by part, and what the loader delivers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.bench.profiling import Laps, Spread, rounds
from t2t_vit.data.batch_transform import BatchTransform, Share
from t2t_vit.data.decode import Mode, Reduction, decode
from t2t_vit.data.folder import Files
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import Batch, TrainLoader
from t2t_vit.data.samples import Request, TrainSamples
from t2t_vit.data.seeds import Keys

READING = ("reading", "decoding", "transforming", "collating")
CPU = torch.device("cpu")


def measure_reading(
    images: ImageSet, mode: Mode, transform: TrainTransform, batch: int, repeats: int, *, kept: bool = False
) -> dict[str, Any]:
    """Seconds an image and images a second of each part, on this one core, and of all together.

    Of a folder, reading is to get the bytes of a file, from the disk or from what the system still has of it, decoding
    to make upright pixels of them. What is in memory already (`kept`, and data sets that are read whole) has no
    reading, and decoding is to get the pixels.
    """
    laps = Laps(CPU)
    samples = TrainSamples(
        _Watched(images, mode, transform.reduction, laps, kept), _WatchedTransform(transform, laps), seed=0
    )
    batches = _batches(len(images), batch)

    def once() -> dict[str, float]:
        request = next(batches)
        laps.begin()
        samples[request]
        laps.lap("collating")
        return {name: value / len(request.indices) for name, value in laps.seconds().items()}

    if kept:
        for _ in range(repeats + 2):
            samples[next(batches)]  # so that they are in memory when the clock runs
        laps.seconds()
        batches = _batches(len(images), batch)
    return _parts(rounds(once, repeats), READING)


def measure_batch_transform(
    transform: BatchTransform, channels: int, batch: int, device: torch.device, repeats: int
) -> dict[str, Any]:
    """The way of a batch to the device, and normalising, erasing and mixing there: seconds an image."""
    laps = Laps(device)
    pixels = torch.randint(0, 256, (batch, channels, *transform.preprocessing.image_size), dtype=torch.uint8)
    pixels = pixels.pin_memory() if device.type == "cuda" else pixels
    targets = torch.arange(batch, device=device) % transform.num_classes
    numbers = np.arange(batch)

    def once() -> dict[str, float]:
        laps.begin()
        there = pixels.to(device, non_blocking=True)
        if device.type != "cpu":
            laps.lap("copying")
        transform(there, targets, 0, numbers, Share(0, 0, batch, batch))
        laps.lap("batch transform")
        return {name: value / batch for name, value in laps.seconds().items()}

    return _parts(rounds(once, repeats), ("copying", "batch transform"))


def measure_loader(loader: TrainLoader, workers: int, repeats: int) -> dict[str, Any]:
    """Images a second that the loader delivers to one who never makes it wait.

    A round is as many batches as there are workers, which answer in bursts; what they have read ahead when the clock
    begins does not count.
    """
    batches = _endless(loader)
    laps = Laps(CPU)
    for _ in range(1 + 2 * workers):
        next(batches)

    def once() -> dict[str, float]:
        count = 0
        laps.begin()
        for _ in range(max(1, workers)):
            images, _ = next(batches)
            count += len(images)
        if images.device.type != "cpu":
            torch.accelerator.synchronize(images.device)
        laps.lap("all")
        return {"all": count / laps.seconds()["all"]}

    found = rounds(once, repeats, warm_up=0)["all"]
    return {"workers": workers, "images_per_second": Spread.of(found).to_dict()}


def _parts(found: dict[str, list[float]], names: Sequence[str]) -> dict[str, Any]:
    """A row a part; shares are those of their sum."""
    spreads = {name: Spread.of(found[name]) for name in names if name in found}
    total = sum(spread.median for spread in spreads.values())
    rows = [
        {
            "name": name,
            "seconds_per_image": spread.to_dict(),
            "images_per_second": 1 / spread.median,
            "share": spread.median / total,
        }
        for name, spread in spreads.items()
    ]
    return {"parts": rows, "images_per_second": 1 / total}


def _batches(images: int, batch: int) -> Iterator[Request]:
    """Requests of `batch` images in a random order that is always the same; over and over."""
    order = np.random.default_rng(0).permutation(images)
    start = 0
    while True:
        yield Request(0, np.take(order, range(start, start + batch), mode="wrap"))
        start += batch


def _endless(loader: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


class _Watched:
    """An image set whose readings are timed."""

    def __init__(self, images: ImageSet, mode: Mode, reduction: Reduction, laps: Laps, kept: bool) -> None:
        self._reduction = reduction
        self._images, self._mode, self._laps, self._kept = images, mode, laps, kept
        self.classes, self.targets = images.classes, images.targets
        files = Files.of(images)
        self._budget = None if files is None else files.images.budget

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Image.Image:
        self._laps.lap("collating")
        path = Path(self._images.name(index))
        if self._kept or not path.is_file():
            image = self._images.read(index)
        else:
            content = path.read_bytes()
            self._laps.lap("reading")
            image = decode(content, self._mode, self._reduction, self._budget)
        self._laps.lap("decoding")
        return image

    def name(self, index: int) -> str:
        return self._images.name(index)


class _WatchedTransform(TrainTransform):
    """A transform that is timed."""

    def __init__(self, transform: TrainTransform, laps: Laps) -> None:
        vars(self).update(vars(transform), laps=laps)

    def numbers(self, keys: Keys) -> NDArray[np.float64]:
        laps: Laps = vars(self)["laps"]
        laps.lap("collating")
        drawn = super().numbers(keys)
        laps.lap("transforming")
        return drawn

    def apply(self, image: Image.Image, numbers: Sequence[float]) -> Image.Image:
        changed = super().apply(image, numbers)
        laps: Laps = vars(self)["laps"]
        laps.lap("transforming")
        return changed
