"""What tells one image of a set from another, so that the answers of two runs can be paired image by image."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from t2t_vit.data.folder import Files
from t2t_vit.data.images import ArrayImages, ImageSet, Subset


def image_fingerprints(images: ImageSet, numbers: Sequence[int]) -> NDArray[np.uint64]:
    """64 bits for each of the images `numbers`, the same wherever the data set lies: (N,).

    A file counts by CLASS/PATH and its size in bytes, an image in memory by its name and its pixels, both by the name
    of their class. Nothing is decoded. A file that has gone has no size.
    """
    files = Files.of(images)
    if files is not None:
        contents = (files.relative(number) + b"\0%d" % _size(files, number) for number in numbers)
    else:
        contents = (images.name(number).encode(errors="surrogatepass") + _pixels(images, number) for number in numbers)
    targets, classes = images.targets, [name.encode(errors="surrogatepass") for name in images.classes]
    found = (
        int.from_bytes(hashlib.blake2b(classes[targets[number]] + b"\0" + content, digest_size=8).digest(), "little")
        for number, content in zip(numbers, contents, strict=True)
    )
    return np.fromiter(found, np.uint64, len(numbers))


def _size(files: Files, number: int) -> int:
    try:
        return files.path(number).stat().st_size
    except OSError:
        return -1


def _pixels(images: ImageSet, number: int) -> bytes:
    if isinstance(images, Subset):
        return _pixels(images.base, int(images.indices[number]))
    return b"\0" + images.pixels[number].tobytes() if isinstance(images, ArrayImages) else b""
