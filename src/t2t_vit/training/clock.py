"""How long training took, and how much of that it waited for data."""

from collections.abc import Generator, Iterable
from time import perf_counter
from typing import TypeVar

Item = TypeVar("Item")


class Clock:
    """Host time in seconds: `training` while batches are being worked through, `waiting` of it for the next one.

    Evaluations are in neither, so a speed that is taken from it is the speed of training.
    """

    def __init__(self) -> None:
        self.waiting = 0.0
        self.started = perf_counter()
        self._finished = 0.0
        self._since: float | None = None

    @property
    def training(self) -> float:
        """Seconds of training so far."""
        return self._finished + (0.0 if self._since is None else perf_counter() - self._since)

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made, evaluations and all."""
        return perf_counter() - self.started

    def watch(self, batches: Iterable[Item]) -> Generator[Item]:
        """`batches`, timed: training runs until they end or are dropped, waiting is the time inside them."""
        self._since = perf_counter()
        iterator = iter(batches)
        try:
            while True:
                asked = perf_counter()
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                finally:
                    self.waiting += perf_counter() - asked
                yield batch
        finally:
            self._finished = self.training
            self._since = None
            getattr(iterator, "close", _nothing)()


def _nothing() -> None:
    """An iterator that has nothing to close."""
