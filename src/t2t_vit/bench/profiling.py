"""What work on a device takes: seconds with their spread over rounds, memory, and how often the host waits."""

import gc
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from t2t_vit.platforms import give_back_freed_memory, resident_memory


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, the least and the greatest: where these lie far apart, the machine was busy."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


class Laps:
    """Seconds between moments of a device's work, by name: CUDA events, else the host's clock.

    Nothing waits for the device until `seconds` is asked for, so what is measured is its work, not the launching of it
    (unless launching is the slower of the two, as it is for small batches).
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._device = device
        self._moments: list[tuple[str, Any]] = []  # seconds, or events

    def begin(self) -> None:
        """From now on."""
        self._moments.append(("", self._now()))

    def lap(self, name: str) -> None:
        """What was done since the last moment is called `name`; a name that comes again is added up."""
        self._moments.append((name, self._now()))

    def seconds(self) -> dict[str, float]:
        """What was measured since this was last asked for."""
        synchronise(self._device)
        found: dict[str, float] = {}
        for (_, before), (name, moment) in zip(self._moments, self._moments[1:], strict=False):
            if name:
                found[name] = found.get(name, 0.0) + self._between(before, moment)
        self._moments.clear()
        return found

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, before: Any, after: Any) -> float:
        return float(before.elapsed_time(after) / 1e3 if self._on_cuda else after - before)


def rounds(run: Callable[[], Mapping[str, float]], repeats: int, warm_up: int = 2) -> dict[str, list[float]]:
    """What `run` measures, by name, over `repeats` rounds; the first `warm_up` do not count."""
    found: dict[str, list[float]] = {}
    gc.collect()
    for turn in range(warm_up + repeats):
        measured = run()
        if turn >= warm_up:
            for name, value in measured.items():
                found.setdefault(name, []).append(value)
    return found


def in_turn(
    contestants: Mapping[str, Callable[[], object]], device: torch.device, *, repeats: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run of each contestant, waiting for the device; each once a round, so that what else the machine
    does meets all of them alike."""

    def once() -> dict[str, float]:
        seconds = {}
        for name, run in contestants.items():
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            seconds[name] = time.perf_counter() - start
        return seconds

    return rounds(once, repeats, warm_up)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that `run()` takes at most: of the CUDA allocator, or by which resident memory grows on a CPU.

    None where neither can be measured. Resident memory grows least where the process had freed much before, although
    what the C library holds of that is given back first: measure early.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return growth(run) if device.type == "cpu" else None


def growth(run: Callable[[], object]) -> int | None:
    """Bytes by which resident memory rises at most during `run()`, looked at every 2 ms; None where nobody says it."""
    gc.collect()
    give_back_freed_memory()
    before, highest, done = resident_memory(), [0], threading.Event()
    if before is None:
        return None

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], resident_memory() or 0)
            done.wait(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(highest[0], resident_memory() or 0) - before


def synchronisations(run: Callable[[], object], device: torch.device) -> int | None:
    """How often `run()` waits for a CUDA device, as torch's own watch counts it; None on other devices."""
    if device.type != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # which warns that it is a prototype
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
