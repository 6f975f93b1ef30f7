"""A share of the images of every class kept for validation, where nobody divided them."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from t2t_vit.data.folder import FolderImages
from t2t_vit.data.images import Subset
from t2t_vit.errors import UserError


def split(images: FolderImages, share: float, seed: int, key_name: str = "val_split") -> tuple[Subset, Subset]:
    """The training and the validation part of `images`.

    Of a class with n images max(1, min(n - 1, round(share n))) are kept for validation: those whose names, hashed with
    `seed`, come first. So each class of two or more is in both parts, the same names make the same parts wherever the
    folder lies, and a picture that is added moves at most one other of its class.

    Raises:
        UserError: every class has a single image, so that none can be kept; `key_name` is named.
    """
    counts = np.bincount(images.targets, minlength=len(images.classes))
    kept = np.where(counts > 1, np.clip(np.floor(share * counts + 0.5), 1, np.maximum(counts - 1, 1)), 0).astype(int)
    if not kept.any():
        raise UserError(f"{key_name}: every class of {images.folder} has a single image, so none can be kept")
    order = np.lexsort((_hashes(images, seed), images.targets))
    place = np.arange(len(images)) - (np.cumsum(counts) - counts)[images.targets[order]]  # within its class
    is_val = np.zeros(len(images), dtype=bool)
    is_val[order] = place < kept[images.targets[order]]
    return Subset(images, np.flatnonzero(~is_val)), Subset(images, np.flatnonzero(is_val))


def _hashes(images: FolderImages, seed: int) -> NDArray[np.uint64]:
    key = seed.to_bytes(8)
    digests = (hashlib.blake2b(images.relative(i), digest_size=8, key=key).digest() for i in range(len(images)))
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
