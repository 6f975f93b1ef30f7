"""Images that stay in memory as they were decoded, so that later epochs only crop and augment them."""

import os
import struct
import threading
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import Mode
from t2t_vit.data.images import ImageSet
from t2t_vit.data.memory import MemoryFile, Place, shown_bytes
from t2t_vit.platforms import open_file_of, read_at, write_at, write_parts

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
        self._end: int | None = None  # a second descriptor, which only appends
        self._lock = threading.Lock()  # between a write and the reading of its position
        if file.size < _PLACE.size * count:
            os.ftruncate(file.fd, _PLACE.size * count)

    def __reduce__(self) -> tuple[type["ByteStore"], tuple[MemoryFile, int, int]]:
        return ByteStore, (self._file, self._count, self._budget)

    def get(self, number: int) -> tuple[bytes, int, int] | None:
        """The piece and its two sizes, or None where it is not there."""
        fd = self._file.fd
        (place,) = _PLACE.unpack(read_at(fd, _PLACE.size, _PLACE.size * number))
        if place == 0:
            return None
        length, first, second = _HEAD.unpack(read_at(fd, _HEAD.size, place))
        return read_at(fd, length, place + _HEAD.size), first, second

    def put(self, number: int, content: bytes, first: int, second: int) -> bool:
        """Put a piece there; False where there is no room for it."""
        length = _HEAD.size + len(content)
        if self._file.size + length > self._budget:
            return False
        try:
            with self._lock:
                if self._end is None:
                    self._end = self._open_at_end()
                written = write_parts(self._end, [_HEAD.pack(len(content), first, second), content])
                place = os.lseek(self._end, 0, os.SEEK_CUR) - written
        except OSError:
            return False
        if written == length:
            write_at(self._file.fd, _PLACE.pack(place), _PLACE.size * number)
        return written == length

    def _open_at_end(self) -> int:
        end = open_file_of(*self._file.place, os.O_WRONLY | os.O_APPEND)
        weakref.finalize(self, os.close, end)
        return end


class KeptImages:
    """The same images as `images`, to the pixel; each is decoded by the first process that reads it.

    A broken image stays one: it is read again, and raises DecodeError again. What finds no room in the store is
    decoded each time.

    Args:
        kept: (N,) bool, which images go into the store.
    """

    def __init__(self, images: ImageSet, mode: Mode, store: ByteStore, kept: NDArray[np.bool_]) -> None:
        self._images, self._mode, self._store, self._kept = images, mode, store, kept
        self.classes = images.classes

    @property
    def targets(self) -> NDArray[np.int64]:
        return self._images.targets

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Image.Image:
        if not self._kept[index]:
            return self._images.read(index)
        kept = self._store.get(index)
        if kept is not None:
            return Image.frombytes(self._mode, kept[1:], kept[0])
        image = self._images.read(index)
        if image.mode == self._mode:
            self._store.put(index, image.tobytes(), *image.size)
        return image

    def name(self, index: int) -> str:
        return self._images.name(index)


Share = Callable[[Place | None], Place | None]


def keep_decoded(
    images: ImageSet,
    mode: Mode,
    budget: int,
    sizes: NDArray[np.int64],
    *,
    what: str,
    first: bool = True,
    share: Share = lambda place: place,
    note: Callable[[str], None],
) -> tuple[ImageSet, int]:
    """`images`, of which those that fit `budget` bytes stay in memory from their first reading on; and the bytes left.

    Where not all fit, the largest are left out: a few of them may take more room than all the others.

    Args:
        sizes: (N, 2) width and height of each as it is read; 0 for what cannot be read.
        what: what they are called in the one line that says what is done.
        first: whether this process makes the memory for all of the machine.
        share: hands the first one's (process, descriptor), or None for no memory, to all.
    """
    pixels = sizes.prod(1)
    needed = np.where(pixels > 0, pixels * _CHANNELS[mode] + _HEAD.size + _PLACE.size, 0)
    order = np.argsort(needed, kind="stable")
    fitting = np.zeros(len(needed), np.bool_)
    fitting[order] = np.cumsum(needed[order]) <= budget
    fitting &= pixels > 0
    left_out = ~fitting & (pixels > 0)
    total, taken = int(needed.sum()), int(needed[fitting].sum())
    if not fitting.any():
        note(
            f"cache: the {what}, {shown_bytes(total)}, do not fit the {shown_bytes(budget)} that they may take: each "
            "is decoded in every epoch"
        )
        return images, budget
    store = shared_store(len(needed), budget, first, share, note)
    if store is None:
        return images, budget
    if not left_out.any():
        note(f"cache: the {what} are decoded once and stay in memory, {shown_bytes(total)}")
    else:
        note(
            f"cache: of the {what} {int(fitting.sum()):,} are decoded once and stay in memory, {shown_bytes(taken)}; "
            f"the largest ({int(left_out.sum()):,}, {shown_bytes(total - taken)}) are decoded in every epoch"
        )
    return KeptImages(images, mode, store, fitting), budget - taken


def shared_store(count: int, budget: int, first: bool, share: Share, note: Callable[[str], None]) -> ByteStore | None:
    """Memory for `count` pieces that the processes of a machine share, or None where it cannot be had."""
    try:
        if first:
            file = MemoryFile()
            share(file.place)
        else:
            place = share(None)
            if place is None:
                return None
            file = MemoryFile(place)
    except OSError as error:
        if first:
            note(f"cache: its memory cannot be allocated ({error.strerror}); images are decoded in every epoch")
            share(None)
        return None  # another process of the machine may not reach the first one
    return ByteStore(file, count, budget)
