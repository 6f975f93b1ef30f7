"""Where a run is, and how long it took to get there."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics

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


@dataclass
class State:
    """Where a run is: everything follows from `step`, the number of optimizer updates made.

    step                updates since the start of the run; those of epochs that were skipped over count
    updates_per_epoch   updates of one epoch
    epochs              epochs of the whole run, cooldown included
    last_step           the run ends when `step` gets there
    lr                  learning rate of the last update
    results             the last evaluation, by the name of the weights: raw, ema
    evaluated_at        the step that `results` belong to
    closed_at           the step at which an epoch was last closed: evaluated, reported and ranked
    ended               whether the end of the run was reached and reported
    diverged_since      the first of the updates without a finite gradient that ended this run; in no checkpoint
    clock               in no checkpoint: equal runs make equal files
    """

    updates_per_epoch: int
    epochs: int
    last_step: int
    step: int = 0
    lr: float = 0.0
    results: dict[str, Metrics] = field(default_factory=dict)
    evaluated_at: int = -1
    closed_at: int = 0
    ended: bool = False
    diverged_since: int | None = None
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def begin(
        cls, batches: int, *, accumulation: int = 1, epochs: int, start_epoch: int = 0, max_steps: int = 0
    ) -> "State":
        """A run over a loader of `batches` batches, at the start of epoch number `start_epoch`, from 0.

        An epoch has floor(batches / accumulation) updates; batches that are left over are not used.
        `max_steps` ends the run early; 0 does not.

        Raises:
            UserError: an epoch has no update, or no epoch is left.
        """
        updates = batches // accumulation
        if updates == 0:
            raise UserError(
                f"accumulation_step: one update takes {accumulation} batches, but an epoch has {batches}; "
                "lower accumulation_step or batch_size"
            )
        if start_epoch >= epochs:
            raise UserError(
                f"start_epoch: {start_epoch} leaves nothing to train of {epochs} epochs; epochs count from 0"
            )
        first, end = start_epoch * updates, epochs * updates
        return cls(updates, epochs, min(end, first + max_steps) if max_steps else end, step=first, closed_at=first)

    @property
    def epoch(self) -> int:
        """The epoch, from 1, that the last update belonged to."""
        return max(1, -(-self.step // self.updates_per_epoch))

    @property
    def epoch_end(self) -> int:
        """What `step` is at the end of the epoch that the next update belongs to, or of the run.

        An epoch that has all its updates but is not closed yet comes first.
        """
        if self.closed_at < self.step and self.step % self.updates_per_epoch == 0:
            return self.step
        return min(self.last_step, (self.step // self.updates_per_epoch + 1) * self.updates_per_epoch)

    @property
    def finished(self) -> bool:
        """Whether no update is left."""
        return self.step >= self.last_step

    @property
    def complete(self) -> bool:
        """Whether no update is left, and the epoch of the last one is closed."""
        return self.finished and self.closed_at == self.step

    @property
    def evaluated(self) -> bool:
        """Whether `results` belong to the present weights."""
        return self.evaluated_at == self.step

    def end_here(self) -> None:
        """Make the last update the run's last one: its epoch is evaluated and closed, and no other begins."""
        self.last_step = self.step

    def record(self, results: dict[str, Metrics]) -> None:
        """Take the evaluation of the present weights."""
        self.results, self.evaluated_at = results, self.step

    def close_epoch(self) -> None:
        """Nothing is left to do for the updates so far."""
        self.closed_at = self.step
