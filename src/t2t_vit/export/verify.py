"""An exported file against the network that it was made of, on real images."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from t2t_vit.inference.predictor import Predictor

# A file whose batch is not dynamic, or whose state leaks between calls, fails on one of these in this order.
BATCHES = (1, 3, 2)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How well two predictors agree.

    Attributes:
        images: how many were compared.
        largest_difference: of two logits.
        largest_logit: in size; what the difference is measured against.
        top1_agreement: share of the images with the same most probable class.
    """

    images: int
    largest_difference: float
    largest_logit: float
    top1_agreement: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is at most 1e-4 of the largest logit; values that are not finite never agree."""
        return self.largest_difference <= TOLERANCE * self.largest_logit

    def __str__(self) -> str:
        return (
            f"largest logit difference {self.largest_difference:.2e} (largest logit {self.largest_logit:.3g}), "
            f"same top-1 on {self.top1_agreement:.1%} of {self.images} images"
        )


def verify(exported: Predictor, reference: Predictor, images: Tensor) -> Agreement:
    """Run both on `images`, in batches of 1, 3, 2, 1, 3, 2, ...; fewer than six images are used again.

    Args:
        images: real ones, uint8 (N, in_chans, height, width), N at least 1.
    """
    images = images[torch.arange(max(len(images), sum(BATCHES))) % len(images)]
    ours, theirs = (
        torch.cat([one.logits(batch) for batch in _batches(images)]) for one in (exported, reference)
    )  # (N, num_classes) each
    return Agreement(
        images=len(images),
        largest_difference=float((ours - theirs).abs().max()),
        largest_logit=float(theirs.abs().max()),
        top1_agreement=float((ours.argmax(dim=1) == theirs.argmax(dim=1)).float().mean()),
    )


def _batches(images: Tensor) -> Iterator[Tensor]:
    start = 0
    for size in cycle(BATCHES):
        if start >= len(images):
            return
        yield images[start : start + size]
        start += size
