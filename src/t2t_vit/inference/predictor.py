"""One interface over every runtime: images -> predictions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import Tensor

from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.image_like import ImageLike, is_one, name_of, opened
from t2t_vit.inference.item import BATCH_SIZE, NOT_FINITE, ImageResult, Item, Prediction
from t2t_vit.inference.pipeline import answer_batches
from t2t_vit.inference.readers import Readers
from t2t_vit.settings.schema import Config

Predicted = Prediction | list[Prediction] | list[list[Prediction]]


class Predictor(ABC):
    """A network with its preprocessing and class names; subclasses for each runtime provide `logits`.

    Attributes:
        is_asynchronous: whether `begin` returns before the work is finished.
        max_pixels: of the largest image that is decoded, as in `load`; set it before the first image.
    """

    is_asynchronous = False
    max_pixels: int = Config.max_pixels

    def __init__(self, preprocessing: Preprocessing, classes: Sequence[str] | None) -> None:
        self.preprocessing = preprocessing
        self.classes = tuple(classes) if classes else None

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """uint8 images (B, in_chans, height, width) of the preprocessing's size -> float32 logits (B, num_classes)."""

    def begin(self, images: Tensor) -> Callable[[], Tensor]:
        """`logits` in two parts: start the work on the device; the returned function waits for the answer."""
        logits = self.logits(images)
        return lambda: logits

    # A single image may also be iterable: a str, an array.
    @overload
    def predict(self, images: ImageLike) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, images: ImageLike, top_k: int) -> list[Prediction]: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, images: Iterable[ImageLike]) -> list[Prediction]: ...
    @overload
    def predict(self, images: Iterable[ImageLike], top_k: int) -> list[list[Prediction]]: ...
    def predict(self, images: ImageLike | Iterable[ImageLike], top_k: int = 0) -> Predicted:
        """Classify images of any size: one image gives one prediction, several give a list.

            predictor.predict("cat.jpg").name
            predictor.predict([upload.read(), frame], top_k=3)[0][0].probability

        Args:
            images: an image, or several: a list, any iterable, an array (B, H, W, C) or a tensor (B, C, H, W). An image
                is a path, the bytes of an image file, a file open for reading, a Pillow image, an array (H, W, C) or
                (H, W), or a tensor (C, H, W) or (H, W). C is 1 (grey), 3 (RGB, in this order) or 4 (RGBA); numbers are
                0..255 for integers, 0..1 for floats.
            top_k: number of classes per image, as a list, the most probable first; 0: only the best one, not in a list.

        Raises:
            UserError: an image cannot be decoded, top_k is negative, or the answer for an image is not finite.
        """
        if top_k < 0:
            raise UserError(f"top_k takes a number of at least 1, or 0 for the best class by itself; not {top_k}")
        if is_one(images):
            only: Any = self.predict([cast(ImageLike, images)], top_k=top_k)
            return only[0]
        waiting, answers = iter(cast(Iterable[ImageLike], images)), list[list[Prediction]]()
        while batch := [self._prepared(image) for image in islice(waiting, BATCH_SIZE)]:
            for ranked in self.rank(batch, max(1, top_k)):
                if not isfinite(ranked[0].probability):
                    raise UserError(f"image {len(answers) + 1} of the given ones: {NOT_FINITE}")
                answers.append(list(ranked))
        return answers if top_k else [best for (best,) in answers]

    def prepare(self, image: ImageLike) -> Tensor:
        """One image, as in `predict` -> uint8 (in_chans, height, width).

        Raises:
            DecodeError: it cannot be decoded.
            TypeError: it is of no type that can be an image.
        """
        reduction = self.preprocessing.reduction
        return self.preprocessing(opened(image, self.preprocessing.mode, reduction, self._budget))

    def classify(self, images: Sequence[Tensor]) -> list[Prediction]:
        """Prepared images, each uint8 (in_chans, height, width) -> their predictions."""
        return [best for (best,) in self.rank(images, 1)]

    def rank(self, images: Sequence[Tensor], count: int) -> list[tuple[Prediction, ...]]:
        """Prepared images -> the `count` most probable classes of each, or all; of equal ones the first class first."""
        return self.ranked(self.logits(torch.stack(list(images))), count)

    def ranked(self, logits: Tensor, count: int) -> list[tuple[Prediction, ...]]:
        """Logits (B, num_classes) -> the `count` most probable classes of each row, as `rank`."""
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
        """Classify any number of image files in order, in little memory.

            for result in predictor.stream(glob.iglob("photos/*.jpg"), top_k=5):
                print(result.path, result.predictions or result.reason)

        Reading and decoding overlap with computing. A bad image does not stop the stream: its result has a `reason`.

        Args:
            images: paths; the iterable is read only as far as needed.
            top_k: predictions per image.
            workers: decoding processes; 0 decodes in threads of this process.
        """
        items = (Item(str(path)) for path in images)
        with closing(Readers(self.preprocessing, workers, max_pixels=self.max_pixels)) as readers:
            for batch in answer_batches(self, items, readers, top_k=top_k, batch_size=batch_size):
                yield from (answered.result for answered in batch)

    @cached_property
    def _budget(self) -> PixelBudget | None:
        """None by default: all predictors of the process then share one."""
        return PixelBudget(self.max_pixels) if self.max_pixels else None

    def _prepared(self, image: ImageLike) -> Tensor:
        try:
            return self.prepare(image)
        except DecodeError as error:
            raise UserError(f"{name_of(image)}: {error}") from error
