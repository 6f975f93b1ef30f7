"""Images that stay in memory as they were decoded, so that later epochs only crop and augment them."""

import os
import struct
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import DecodeError, Mode
from t2t_vit.data.images import ImageSet
from t2t_vit.data.memory import MemoryFile, shown_bytes

Place = tuple[int, int]

_LOOKED_AT = 32  # images by which the size of all is estimated
_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}

_PLACE = struct.Struct("<q")
_HEAD = struct.Struct("<qII")  # length and the two sizes


class ByteStore:
    """Up to `count` pieces of bytes, each with two sizes, by number; put there by any process, read by all.

    Pieces are appended by single writes, which the kernel puts one behind the other, and then entered into the table
    at the file's beginning; a process that is killed in between leaves a gap and no harm. Nothing is mapped: a full
    memory is an error of `write`, not a signal.

    Args:
        budget: bytes beyond which nothing is put.
    """

    def __init__(self, file: MemoryFile, count: int, budget: int) -> None:
        self._file, self._count, self._budget = file, count, budget
        self._end: int | None = None  # a second descriptor, which always writes at the end
        if file.size < _PLACE.size * count:
            os.ftruncate(file.fd, _PLACE.size * count)

    def __reduce__(self) -> tuple[type["ByteStore"], tuple[MemoryFile, int, int]]:
        return ByteStore, (self._file, self._count, self._budget)

    def get(self, number: int) -> tuple[bytes, int, int] | None:
        """The piece and its two sizes, or None where it is not there."""
        fd = self._file.fd
        (place,) = _PLACE.unpack(os.pread(fd, _PLACE.size, _PLACE.size * number))
        if place == 0:
            return None
        length, first, second = _HEAD.unpack(os.pread(fd, _HEAD.size, place))
        return os.pread(fd, length, place + _HEAD.size), first, second

    def put(self, number: int, content: bytes, first: int, second: int) -> bool:
        """Put a piece there; False where there is no room for it."""
        length = _HEAD.size + len(content)
        if self._file.size + length > self._budget:
            return False
        try:
            if self._end is None:
                self._end = self._open_at_end()
            written = os.writev(self._end, [_HEAD.pack(len(content), first, second), content])
            place = os.lseek(self._end, 0, os.SEEK_CUR) - written
        except OSError:
            return False
        if written == length:
            os.pwrite(self._file.fd, _PLACE.pack(place), _PLACE.size * number)
        return written == length

    def _open_at_end(self) -> int:
        process, fd = self._file.place
        end = os.open(f"/proc/{process}/fd/{fd}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        weakref.finalize(self, os.close, end)
        return end


class KeptImages:
    """The same images as `images`, to the pixel; each is decoded by the first process that reads it.

    A broken image stays one: it is read again, and raises DecodeError again. What finds no room in the store is
    decoded each time.
    """

    def __init__(self, images: ImageSet, mode: Mode, store: ByteStore) -> None:
        self._images, self._mode, self._store = images, mode, store
        self.classes = images.classes

    @property
    def targets(self) -> NDArray[np.int64]:
        return self._images.targets

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Image.Image:
        kept = self._store.get(index)
        if kept is not None:
            return Image.frombytes(self._mode, kept[1:], kept[0])
        image = self._images.read(index)
        if image.mode == self._mode:
            self._store.put(index, image.tobytes(), *image.size)
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
    share: Callable[[Place | None], Place | None] = lambda place: place,
    note: Callable[[str], None],
) -> tuple[ImageSet, int]:
    """`images`, kept in memory from their first reading on where all of them fit `budget` bytes; and the bytes left.

    How large they are is estimated from a few, which are decoded for it, and stay.

    Args:
        what: what they are called in the one line that says what is done.
        first: whether this process decides and makes the memory for all of the machine.
        share: hands the first one's (process, descriptor), or None for no memory, to all.
    """
    if not first:
        place = share(None)
        return (images, 0) if place is None else _from_elsewhere(images, mode, place, budget)
    try:
        file = MemoryFile()
    except OSError as error:
        note(f"cache: no memory can be had for it ({error.strerror}); images are decoded in every epoch")
        share(None)
        return images, budget
    kept = KeptImages(images, mode, ByteStore(file, len(images), budget))
    needed = _estimate(kept, _CHANNELS[mode])
    if needed > budget:
        note(
            f"cache: the {what}, about {shown_bytes(needed)} decoded, do not fit the {shown_bytes(budget)} that they "
            "may take; they are decoded in every epoch"
        )
        share(None)
        return images, budget
    note(f"cache: the {what} are decoded once and stay in memory, about {shown_bytes(needed)}")
    share(file.place)
    return kept, budget - needed


def _from_elsewhere(images: ImageSet, mode: Mode, place: Place, budget: int) -> tuple[ImageSet, int]:
    try:
        return KeptImages(images, mode, ByteStore(MemoryFile(place), len(images), budget)), budget
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
