"""Memory that processes share, and how much of it there is to take."""

import mmap
import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t2t_vit.platforms import free_machine_memory, new_memory_file, open_file_of

Place = tuple[int, int]  # a memory file: a process that has it open, and the descriptor there

_AUTO_SHARE = 4  # auto: this fraction (1/n) of the free memory
_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SHOWN = ("TiB", "GiB", "MiB", "KiB")


class MemoryFile:
    """A Linux memory file. It is gone with the last process that holds it, however that ends.

    It does not count against /dev/shm, which containers keep small. Pickled, it is opened again where it arrives.

    Args:
        place: (process, descriptor) of a file that is there already; None makes a new one.

    Raises:
        OSError: there is no such file any more, it may not be opened from here, or the system has none.
    """

    def __init__(self, place: Place | None = None) -> None:
        self.fd = new_memory_file("t2t_vit") if place is None else open_file_of(*place, os.O_RDWR)
        weakref.finalize(self, os.close, self.fd)

    @property
    def place(self) -> Place:
        """Where others find it while this process holds it."""
        return os.getpid(), self.fd

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return os.fstat(self.fd).st_size

    def __reduce__(self) -> tuple[type["MemoryFile"], tuple[Place]]:
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


def budget_of(text: str) -> int:
    """Bytes: 0 for `off`, a quarter of the free memory for `auto`, else what `text`, as `1.5GiB`, says."""
    if text == "off":
        return 0
    if text == "auto":
        return free_memory() // _AUTO_SHARE
    digits = text.rstrip("kKmMgGtTiIbB")
    return int(float(digits) * _UNITS[text[len(digits) :].lower()])


def shown_bytes(size: int) -> str:
    """A number of bytes in the largest unit that it fills: `1.5 GiB`."""
    for unit in _SHOWN:
        if size >= _UNITS[unit.lower()]:
            count = size / _UNITS[unit.lower()]
            return f"{count:.0f} {unit}" if count >= 999.5 else f"{count:.3g} {unit}"
    return f"{size} bytes"


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process could take before something is swapped out or killed; 0 where nobody says.

    The least of what the machine has left and of what its control groups (containers, batch systems) leave.

    Args:
        root: where proc/ and sys/ lie.
    """
    info = _numbers(root / "proc/meminfo")
    free = [1024 * info["MemAvailable:"]] if "MemAvailable:" in info else []
    for limit, statistics in control_groups(root):
        words = text_of(limit).split()
        used = _numbers(statistics)
        if words and words[0].isdigit():
            held = sum(used.get(name, 0) for name in ("anon", "shmem", "total_rss", "total_shmem"))
            free.append(max(0, int(words[0]) - held))
    return min(free, default=free_machine_memory() or 0)


def control_groups(root: Path) -> list[tuple[Path, Path]]:
    """The files of memory limits and of statistics of all control groups that this process is in, of either version."""
    found = []
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = top / group.strip("/")
        for place in (folder, *(above for above in folder.parents if above.is_relative_to(top))):
            found.append((place / limit, place / "memory.stat"))
    return found


def _numbers(path: Path) -> dict[str, int]:
    """Name -> number, from lines that begin with both."""
    rows = [line.split() for line in text_of(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
