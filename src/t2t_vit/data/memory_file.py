"""A file that lies in memory alone: what the processes of a machine share without a folder, a name or a leftover."""

import mmap
import os
import weakref

import numpy as np
from numpy.typing import NDArray


class MemoryFile:
    """A Linux memory file. It is gone with the last process that holds it, however that ends.

    It does not count against /dev/shm, which containers keep small. Pickled, it is opened anew where it arrives.

    Args:
        place: (process, descriptor) of a file that is there already; None makes a new one.

    Raises:
        OSError: there is no such file any more, or it may not be opened from here.
    """

    def __init__(self, place: tuple[int, int] | None = None) -> None:
        if place is None:
            self.fd = os.memfd_create("t2t_vit", os.MFD_CLOEXEC)
        else:
            self.fd = os.open(f"/proc/{place[0]}/fd/{place[1]}", os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.fd)

    @property
    def place(self) -> tuple[int, int]:
        """Where others find it while this process holds it."""
        return os.getpid(), self.fd

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return os.fstat(self.fd).st_size

    def __reduce__(self) -> tuple[type["MemoryFile"], tuple[tuple[int, int]]]:
        return MemoryFile, (self.place,)


class SharedArray:
    """An array of uint8 in a memory file, so that processes to which it is sent look at the same memory.

    Raises:
        OSError: there is no memory for it.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.file = MemoryFile()
        self.shape = pixels.shape
        content = np.ascontiguousarray(pixels).data.cast("B")
        while self.file.size < len(content):
            os.write(self.file.fd, content[self.file.size :])

    def view(self) -> NDArray[np.uint8]:
        """The array itself, read-only."""
        mapped = mmap.mmap(self.file.fd, 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, np.uint8).reshape(self.shape)
