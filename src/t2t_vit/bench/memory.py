"""Peak memory of a piece of work, above what was there before it."""

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")


def peak(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that `run()` takes at most: of the CUDA allocator, or by which resident memory grows on a CPU.

    None where neither can be told. Resident memory grows least where the process had freed much before, although what
    the C library holds of that is given back first: measure early.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return growth(run) if device.type == "cpu" and _STATM.exists() else None


def growth(run: Callable[[], object]) -> int:
    """Bytes by which resident memory rises at most during `run()`, looked at every 2 ms (Linux)."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library than GNU's
            ctypes.CDLL(None).malloc_trim(0)
    before, highest, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], resident())
            done.wait(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(highest[0], resident()) - before


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
