"""What a worker process computes: the samples of a batch, or the pixels of one image. It imports no torch."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.budget import PixelBudget, image_turn
from t2t_vit.data.cache import ByteStore
from t2t_vit.data.decode import DecodeError, decode
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import ImageSet
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.seeds import Purpose, keys, uniforms

_REPLACEMENTS = 50


class Request(NamedTuple):
    """The samples of one batch, by number: i + t N is image i of N, what is drawn for it being another for each t.

    `size` is the (height, width) of training images, where it is not the transform's.
    """

    epoch: int
    indices: NDArray[np.int64]
    size: tuple[int, int] | None = None


class Failure(NamedTuple):
    """An image that could not be decoded, and why."""

    image: int
    reason: str


class Samples(NamedTuple):
    """A batch on its way from a worker; `lost` counts the samples for which no replacement could be read either."""

    images: NDArray[np.uint8]  # (B, C, H, W)
    targets: NDArray[np.int64]  # (B,)
    indices: NDArray[np.int64]
    failures: list[Failure]
    lost: int


@dataclass(frozen=True)
class TrainSamples:
    """Training samples by request: a sample is a function of (seed, epoch, index), whatever batch it is in."""

    images: ImageSet
    transform: TrainTransform
    seed: int

    def __getitem__(self, request: Request) -> Samples:
        transform = replace(self.transform, image_size=request.size) if request.size else self.transform
        height, width = transform.image_size
        channels = transform.in_chans
        pixels = np.zeros((len(request.indices), height, width, channels), np.uint8)
        targets = np.zeros(len(request.indices), np.int64)
        rows = transform.numbers(keys(self.seed, request.epoch, request.indices, Purpose.TRANSFORM)).tolist()
        failures: list[Failure] = []
        lost = 0
        for i, index in enumerate(request.indices.tolist()):
            with image_turn():
                image, source = self._read(index, request.epoch, failures)
                if image is None:
                    lost += 1
                    continue
                pixels[i] = np.asarray(transform.apply(image, rows[i])).reshape(height, width, channels)
                del image  # before the next one is decoded
            targets[i] = self.images.targets[source]
        images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return Samples(images, targets, request.indices, failures, lost)

    def _read(self, index: int, epoch: int, failures: list[Failure]) -> tuple[Image.Image | None, int]:
        """The image, or in place of a broken one another, always the same; and the index it was read from."""
        source = index % len(self.images)
        for attempt in range(_REPLACEMENTS + 1):
            try:
                return self.images.read(source), source
            except DecodeError as error:
                failures.append(Failure(source, str(error)))
                others = uniforms(keys(self.seed, epoch, [index], Purpose.REPLACE), attempt + 1)
                source = int(others[0, attempt] * len(self.images))
        return None, source


@dataclass(frozen=True)
class EvalSamples:
    """Evaluation samples by request; a broken one is left blank and reported."""

    images: ImageSet
    preprocessing: Preprocessing
    kept: ByteStore | None = None  # a cache of pixels, which are the same in every evaluation

    def __getitem__(self, request: Request) -> Samples:
        height, width = self.preprocessing.image_size
        images = np.zeros((len(request.indices), self.preprocessing.in_chans, height, width), np.uint8)
        failures: list[Failure] = []
        for i, index in enumerate(request.indices.tolist()):
            try:
                images[i] = self.pixels(index)
            except DecodeError as error:
                failures.append(Failure(index, str(error)))
        targets = self.images.targets[request.indices]
        return Samples(images, targets, request.indices, failures, len(failures))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Image `index` as the network gets it: uint8 (C, H, W).

        Raises:
            DecodeError: it is broken.
        """
        held = None if self.kept is None else self.kept.get(index)
        if held is not None:
            size = (self.preprocessing.in_chans, *self.preprocessing.image_size)
            return np.frombuffer(held[0], np.uint8).reshape(size)
        with image_turn():
            pixels = self.preprocessing.pixels(self.images.read(index))
        if self.kept is not None:
            self.kept.put(index, pixels.tobytes(), pixels.shape[2], pixels.shape[1])
        return pixels


@dataclass(frozen=True)
class Decoded:
    """The pixels of an image file, or of encoded bytes, for inference: uint8 (in_chans, height, width).

    Of a broken one the reason, a sentence: an exception that is kept until it is asked for would keep the frames that
    raised it, and with them all that was read.
    """

    preprocessing: Preprocessing
    budget: PixelBudget

    def __call__(self, source: str | bytes | memoryview) -> NDArray[np.uint8] | str:
        try:
            with image_turn():
                mode, reduction = self.preprocessing.mode, self.preprocessing.reduction
                return self.preprocessing.pixels(decode(source, mode, reduction, self.budget))
        except DecodeError as error:
            return str(error)
