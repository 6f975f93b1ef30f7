"""Time on a device: laps without waiting for it, several things in turn, and the spread over rounds."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch


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
