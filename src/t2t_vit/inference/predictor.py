"""One interface over every runtime: images -> predictions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import torch
from PIL import Image
from torch import Tensor

from t2t_vit.data.decode import DecodeError, convert, decode
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.item import BATCH_SIZE, ImageResult, Item, Prediction
from t2t_vit.inference.pipeline import stream

ImageLike = str | Path | Image.Image


class Predictor(ABC):
    """A network with its preprocessing and class names; a runtime provides `logits`.

    Attributes:
        is_asynchronous: whether `begin` returns before the work is done.
    """

    is_asynchronous = False

    def __init__(self, preprocessing: Preprocessing, classes: Sequence[str] | None) -> None:
        self.preprocessing = preprocessing
        self.classes = tuple(classes) if classes else None

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """uint8 images (B, in_chans, height, width) of the preprocessing's size -> float32 logits (B, num_classes)."""

    def begin(self, images: Tensor) -> Callable[[], Tensor]:
        """As `logits`, in two parts: a device is given its work, and what is returned waits for the answer."""
        logits = self.logits(images)
        return lambda: logits

    @overload
    def predict(self, images: ImageLike) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is iterable too
    @overload
    def predict(self, images: Iterable[ImageLike]) -> list[Prediction]: ...
    def predict(self, images: ImageLike | Iterable[ImageLike]) -> Prediction | list[Prediction]:
        """Classify images: paths or Pillow images, of any size and mode; one for one prediction, several for a list.

        Raises:
            UserError: an image cannot be decoded.
        """
        if isinstance(images, ImageLike):
            return self.predict([images])[0]
        listed = list(images)
        batches = [listed[start : start + BATCH_SIZE] for start in range(0, len(listed), BATCH_SIZE)]
        return [answer for batch in batches for answer in self.classify([self._prepared(one) for one in batch])]

    def prepare(self, image: ImageLike) -> Tensor:
        """One image -> uint8 (in_chans, height, width).

        Raises:
            DecodeError: it cannot be decoded.
        """
        if isinstance(image, str | Path):
            return self.preprocessing(decode(image, self.preprocessing.mode))
        if isinstance(image, Image.Image):
            return self.preprocessing(convert(image, self.preprocessing.mode))
        raise TypeError(f"an image is a path or a Pillow image, not {type(image).__name__}")

    def classify(self, images: Sequence[Tensor]) -> list[Prediction]:
        """Prepared images, each uint8 (in_chans, height, width) -> their predictions."""
        return [best for (best,) in self.rank(images, 1)]

    def rank(self, images: Sequence[Tensor], count: int) -> list[tuple[Prediction, ...]]:
        """Prepared images -> of each the `count` most probable classes, or all there are; equals by their number."""
        return self.ranked(self.logits(torch.stack(list(images))), count)

    def ranked(self, logits: Tensor, count: int) -> list[tuple[Prediction, ...]]:
        """Logits (B, num_classes) -> of each row the `count` most probable classes, as `rank`."""
        probabilities = logits.softmax(dim=1)  # (B, num_classes)
        best = probabilities.sort(dim=1, descending=True, stable=True)
        return [
            tuple(self.prediction(index, value) for index, value in zip(indices, values, strict=True))
            for indices, values in zip(best.indices[:, :count].tolist(), best.values[:, :count].tolist(), strict=True)
        ]

    def prediction(self, index: int, probability: float) -> Prediction:
        """Class `index` with its name."""
        return Prediction(index, self.classes[index] if self.classes else None, probability)

    def stream(
        self, images: Iterable[str | Path], *, top_k: int = 1, batch_size: int = BATCH_SIZE, workers: int = 0
    ) -> Iterator[ImageResult]:
        """Classify any number of image files, one after the other and in their order, in little memory.

            for result in predictor.stream(glob.iglob("photos/*.jpg"), top_k=5):
                print(result.path, result.predictions or result.reason)

        Reading and decoding go on while the network computes. A bad image stops nothing: its result has a `reason`.

        Args:
            images: paths, asked for as they are needed.
            top_k: predictions an image.
            workers: processes that decode; 0 decodes in threads of this one.
        """
        items = (Item(str(path)) for path in images)
        return stream(self, items, top_k=top_k, batch_size=batch_size, workers=workers)

    def _prepared(self, image: ImageLike) -> Tensor:
        try:
            return self.prepare(image)
        except DecodeError as error:
            name = image if isinstance(image, str | Path) else "image"
            raise UserError(f"{name}: {error}") from error
