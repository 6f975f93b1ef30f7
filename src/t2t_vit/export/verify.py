"""An exported file against the network that it was made of, on real images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from math import isfinite

import torch
from torch import Tensor

from t2t_vit.inference.exported import ExportPrecision
from t2t_vit.inference.item import BATCH_SIZE
from t2t_vit.inference.predictor import Predictor
from t2t_vit.notes import counted

# A file whose batch is not dynamic, or whose state leaks between calls, fails on one of these in this order.
BATCHES = (1, 3, 2)
# Of the largest logit. An int8 file has no such bound: it is judged by its answers.
TOLERANCES: dict[ExportPrecision, float] = {"fp32": 1e-4, "fp16": 2e-2}
SAME_ANSWERS = 0.99
# What an int8 file may lose of the accuracy, where so many images with known classes were compared.
LOST_ACCURACY, ENOUGH_IMAGES = 0.01, 500


@dataclass(frozen=True)
class Agreement:
    """How well a file agrees with its network.

    Attributes:
        images: how many were compared.
        largest_difference: of two logits.
        largest_logit: in size; what the difference is measured against.
        top1_agreement: share of the images with the same most probable class.
        precision: the file's; it says what is asked of it.
        accuracies: top-1 of the network and of the file, where the classes of the images are known.
    """

    images: int
    largest_difference: float
    largest_logit: float
    top1_agreement: float
    precision: ExportPrecision = "fp32"
    accuracies: tuple[float, float] | None = None

    @property
    def is_acceptable(self) -> bool:
        """Whether the file may be kept; values that are not finite never agree.

        fp32: no logit differs by more than 1e-4 of the largest. fp16: 2e-2, and 99 % have the same class. int8: 99 %
        have the same class, or the accuracy on 500 images or more falls by no more than 0.01.
        """
        if not isfinite(self.largest_difference):
            return False
        if self.precision in TOLERANCES and self.largest_difference > TOLERANCES[self.precision] * self.largest_logit:
            return False
        return self.precision == "fp32" or self.top1_agreement >= SAME_ANSWERS or self._is_as_accurate

    @property
    def _is_as_accurate(self) -> bool:
        if self.precision != "int8" or self.accuracies is None or self.images < ENOUGH_IMAGES:
            return False
        network, file = self.accuracies
        return file >= network - LOST_ACCURACY

    def __str__(self) -> str:
        text = (
            f"largest logit difference {self.largest_difference:.2e} (largest logit {self.largest_logit:.3g}), "
            f"same top-1 on {self.top1_agreement:.1%} of {counted(self.images, 'image')}"
        )
        if self.precision == "fp32" or self.accuracies is None:
            return text
        return f"{text}, accuracy {self.accuracies[0]:.2%} -> {self.accuracies[1]:.2%}"


def verify(
    exported: Predictor,
    reference: Predictor,
    images: Tensor,
    *,
    precision: ExportPrecision = "fp32",
    targets: Tensor | None = None,
) -> Agreement:
    """Run both on `images`, in batches of 1, 3, 2 and then more; fewer than six images are used again.

    Args:
        images: real ones, uint8 (N, in_chans, height, width), N at least 1.
        targets: their classes (N,), where these are known and are the network's.
    """
    again = torch.arange(max(len(images), sum(BATCHES))) % len(images)
    images, targets = images[again], None if targets is None else targets[again]
    ours, theirs = (
        torch.cat([one.logits(batch) for batch in _batches(images)]) for one in (exported, reference)
    )  # (N, num_classes) each
    right = [] if targets is None else [float((one.argmax(1) == targets).float().mean()) for one in (theirs, ours)]
    return Agreement(
        images=len(images),
        largest_difference=float((ours - theirs).abs().max()),
        largest_logit=float(theirs.abs().max()),
        top1_agreement=float((ours.argmax(dim=1) == theirs.argmax(dim=1)).float().mean()),
        precision=precision,
        accuracies=(right[0], right[1]) if right else None,
    )


def worst(one: Agreement, other: Agreement) -> Agreement:
    """Both together, of the same network on different images; accuracies are of the first."""
    count = one.images + other.images
    return replace(
        one,
        images=count,
        largest_difference=max(one.largest_difference, other.largest_difference),
        largest_logit=min(one.largest_logit, other.largest_logit),
        top1_agreement=(one.top1_agreement * one.images + other.top1_agreement * other.images) / count,
    )


def _batches(images: Tensor) -> Iterator[Tensor]:
    start = 0
    for size in chain(BATCHES, repeat(BATCH_SIZE)):
        if start >= len(images):
            return
        yield images[start : start + size]
        start += size
