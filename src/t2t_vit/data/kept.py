"""Images that stay in memory as they were decoded, so that later epochs only crop and augment them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import DecodeError, Mode
from t2t_vit.data.images import ImageSet
from t2t_vit.data.memory_budget import shown
from t2t_vit.data.memory_file import MemoryFile
from t2t_vit.data.shelf import Shelf

Place = tuple[int, int]

_LOOKED_AT = 32  # images by which the size of all is estimated
_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


class KeptImages:
    """The same images as `images`, to the pixel; each is decoded by the first process that reads it.

    A broken image stays one: it is read again, and raises DecodeError again. What finds no room on the shelf is
    decoded each time.
    """

    def __init__(self, images: ImageSet, mode: Mode, shelf: Shelf) -> None:
        self._images, self._mode, self._shelf = images, mode, shelf
        self.classes = images.classes

    @property
    def targets(self) -> NDArray[np.int64]:
        return self._images.targets

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Image.Image:
        kept = self._shelf.get(index)
        if kept is not None:
            return Image.frombytes(self._mode, kept[1:], kept[0])
        image = self._images.read(index)
        if image.mode == self._mode:
            self._shelf.put(index, image.tobytes(), *image.size)
        return image

    def name(self, index: int) -> str:
        return self._images.name(index)


def keep_decoded(
    images: ImageSet,
    mode: Mode,
    budget: int,
    *,
    what: str,
    first: bool = True,
    told: Callable[[Place | None], Place | None] = lambda place: place,
    note: Callable[[str], None],
) -> tuple[ImageSet, int]:
    """`images`, kept in memory from their first reading on where all of them fit `budget` bytes; and the bytes left.

    How large they are is estimated from a few, which are decoded for it, and stay.

    Args:
        what: what they are called in the one line that says what is done.
        first: whether this process decides and makes the memory for all of the machine.
        told: hands the first one's (process, descriptor), or None for no memory, to all.
    """
    if not first:
        place = told(None)
        return (images, 0) if place is None else _from_elsewhere(images, mode, place, budget)
    try:
        file = MemoryFile()
    except OSError as error:
        note(f"cache: no memory can be had for it ({error.strerror}); images are decoded in every epoch")
        told(None)
        return images, budget
    kept = KeptImages(images, mode, Shelf(file, len(images), budget))
    needed = _estimate(kept, _CHANNELS[mode])
    if needed > budget:
        note(
            f"cache: the {what}, about {shown(needed)} decoded, do not fit the {shown(budget)} that they may take; "
            "they are decoded in every epoch"
        )
        told(None)
        return images, budget
    note(f"cache: the {what} are decoded once and stay in memory, about {shown(needed)}")
    told(file.place)
    return kept, budget - needed


def _from_elsewhere(images: ImageSet, mode: Mode, place: Place, budget: int) -> tuple[ImageSet, int]:
    try:
        return KeptImages(images, mode, Shelf(MemoryFile(place), len(images), budget)), budget
    except OSError:  # the processes of a machine may be kept apart
        return images, budget


def _estimate(images: KeptImages, channels: int) -> int:
    """Bytes of all images decoded; broken ones take none."""
    numbers = np.linspace(0, len(images) - 1, min(_LOOKED_AT, len(images))).astype(int).tolist()
    sizes = []
    for number in numbers:
        try:
            width, height = images.read(number).size
        except DecodeError:
            sizes.append(0)
        else:
            sizes.append(width * height * channels)
    return sum(sizes) * len(images) // max(1, len(sizes))
