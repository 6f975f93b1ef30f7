"""Pieces of bytes by number in a memory file: the first process that has one puts it there for all."""

import os
import struct
import weakref

from t2t_vit.data.memory_file import MemoryFile

_PLACE = struct.Struct("<q")
_HEAD = struct.Struct("<qII")  # length and the two sizes


class Shelf:
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

    def __reduce__(self) -> tuple[type["Shelf"], tuple[MemoryFile, int, int]]:
        return Shelf, (self._file, self._count, self._budget)

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
