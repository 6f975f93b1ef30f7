"""How many pixels may be decoded: of one image, and at a time by all threads and processes that share a budget."""

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module

from t2t_vit.data.memory import MemoryFile, Place
from t2t_vit.platforms import open_file_of
from t2t_vit.settings.schema import Config

MAX_PIXELS = 178_956_970  # that all may decode at a time: Pillow's limit for decompression bombs
MOST_PIXELS = 2**28  # of an image where max_pixels is 0: the largest of phones have 200 million
# Linux locks ranges of a file: byte 0 is held while somebody gathers slots, the bytes behind it are the slots.
_SLOTS = 16
_UNCOUNTED = 128  # images of less than a 128th of the budget take no slot: even many of them need little memory
_LOCK = struct.Struct("hhqqi4x")  # the kernel's `struct flock`: type, whence, start, length, process


class PixelBudget:
    """The largest image that is decoded, and what all who share this object decode at a time.

    One image may have `max_pixels`; where that is 0, `MOST_PIXELS` as long as it takes little memory (see
    `data/image_memory.py`). All together may have the larger of `max_pixels` and `MAX_PIXELS`, counted in sixteenths.
    Who finds too little left waits. A process that dies gives back what it took. Sent to worker processes it stays one
    budget; where a system has no memory files (all but Linux) each image is held to its limit, and nobody waits.

    Args:
        max_pixels: width times height of the largest image, whatever memory it takes; 0: see above.
    """

    def __init__(self, max_pixels: int = Config.max_pixels) -> None:
        self.max_pixels = max_pixels
        self._file = _memory_file(None)

    def __getstate__(self) -> tuple[int, Place | None]:
        return self.max_pixels, self.place

    def __setstate__(self, state: tuple[int, Place | None]) -> None:
        self.max_pixels, place = state
        self._file = None if place is None else _memory_file(place)

    @property
    def place(self) -> Place | None:
        """Where other processes of this machine find it, while this one lives."""
        return None if self._file is None else self._file.place

    def join(self, place: Place | None) -> None:
        """Be one budget with that at `place`, of another process of this machine."""
        if place is not None:
            self._file = _memory_file(place)

    @property
    def most_pixels(self) -> int:
        """Width times height of the largest image."""
        return self.max_pixels or MOST_PIXELS

    @property
    def _total(self) -> int:
        return max(self.max_pixels, MAX_PIXELS)

    def take_all(self) -> None:
        """As `take`, for an image of which nobody knows yet how many pixels it has."""
        self.take(self._total)

    def take(self, pixels: int) -> None:
        """Wait until so many pixels may be decoded. They are given back at the end of the `image_turn` around this."""
        held: ExitStack | None = getattr(_turn, "held", None)
        assert held is not None, "an image is decoded outside of image_turn"
        held.close()  # slots of an earlier image in the same turn: a process never waits for its own slots
        total = self._total
        if self._file is not None and pixels * _UNCOUNTED > total:
            held.enter_context(_slots(self._file, min(_SLOTS, -(-pixels * _SLOTS // total))))


_turn = threading.local()


@contextmanager
def image_turn() -> Iterator[None]:
    """The time in which one image is decoded and used. What is taken of a budget is given back at its end.

    Within another one it changes nothing: whoever uses the image, not the decoder alone, says how long it is needed.
    """
    if getattr(_turn, "held", None) is not None:
        yield
        return
    with ExitStack() as held:
        _turn.held = held
        try:
            yield
        finally:
            _turn.held = None


def _memory_file(place: Place | None) -> MemoryFile | None:
    try:
        return MemoryFile(place)
    except OSError:
        return None


@contextmanager
def _slots(file: MemoryFile, count: int) -> Iterator[None]:
    """Hold `count` slots. A descriptor of its own holds the locks, so that they end with it or with the process."""
    descriptor = None
    try:
        with suppress(OSError):  # without locks, all processes may decode at once
            descriptor = open_file_of(os.getpid(), file.fd, os.O_RDWR)
            _gather(descriptor, count)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _gather(descriptor: int, count: int) -> None:
    """Lock `count` slots. One gathers at a time: else two would wait for what the other has, and many small images
    would keep a large one waiting for ever."""
    fcntl = import_module("fcntl")  # only Linux has memory files

    def lock(kind: int, slot: int, *, waits: bool = True) -> None:
        command = fcntl.F_OFD_SETLKW if waits else fcntl.F_OFD_SETLK
        fcntl.fcntl(descriptor, command, _LOCK.pack(kind, os.SEEK_SET, slot, 1, 0))

    lock(fcntl.F_WRLCK, 0)
    free = list(range(1, _SLOTS + 1))
    while True:
        for slot in list(free):
            if _SLOTS - len(free) == count:
                break
            with suppress(BlockingIOError, PermissionError):
                lock(fcntl.F_WRLCK, slot, waits=False)
                free.remove(slot)
        if _SLOTS - len(free) == count:
            break
        lock(fcntl.F_WRLCK, free.pop(0))
    lock(fcntl.F_UNLCK, 0)
