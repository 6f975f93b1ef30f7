"""A part of an image set with as equal a number of images of every class as it allows."""

import numpy as np
from numpy.typing import NDArray

from t2t_vit.data.images import ImageSet, Subset
from t2t_vit.data.seeds import Purpose, generator
from t2t_vit.errors import UserError


def subset(images: ImageSet, count: int, seed: int, key_name: str = "the number of samples") -> ImageSet:
    """`count` images, class-balanced, the same ones for the same seed; -1 is the whole set.

    A class with fewer images than its share gives all it has, and the others share what is left over.

    Raises:
        UserError: `count` is neither -1 nor between 1 and the number of images; `key_name` is named.
    """
    if count == -1:
        return images
    if not 1 <= count <= len(images):
        raise UserError(
            f"{key_name} is {count} but there are {len(images)} images; choose 1 to {len(images)}, or -1 for all"
        )
    rng = generator(seed, 0, 0, Purpose.SUBSET)
    available = np.bincount(images.targets, minlength=len(images.classes))
    shares = _shares(available, count, rng.permutation(len(available)))
    shuffled = rng.permutation(len(images))
    by_class = shuffled[np.argsort(images.targets[shuffled], kind="stable")]
    starts = np.cumsum(available) - available
    chosen = [by_class[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return Subset(images, np.sort(np.concatenate(chosen)))


def _shares(available: NDArray[np.int64], count: int, turn: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of each class: the largest equal level that `count` pays for, the rest one each in the order `turn`."""
    low, high = 0, int(available.max())
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(available, level).sum() <= count else (low, level - 1)
    shares = np.minimum(available, low)
    unfilled = turn[available[turn] > low]
    shares[unfilled[: count - int(shares.sum())]] += 1
    return shares
