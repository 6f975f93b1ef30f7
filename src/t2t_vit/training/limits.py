"""What ends a run before its schedule does: evaluations that are no longer better, and hours."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from t2t_vit.training.callbacks import Callback
from t2t_vit.training.state import State


class EarlyStopping(Callback):
    """Ends the run after `patience` evaluations in a row that are no better by `best_by` than the best before them.

    An evaluation is as good as the better one of the weights, raw and averaged. All processes see the same numbers, so
    all of them stop together.

    Args:
        patience: 0 never ends it.
        best_by: one of `evaluation.metrics.BEST_BY`.
        note: gets the sentence that says why the run ends.
    """

    def __init__(self, patience: int, best_by: str, note: Callable[[str], None]) -> None:
        self._patience, self._best_by, self._note = patience, best_by, note
        self._best, self._step, self._waited = -math.inf, 0, 0

    @property
    def is_over(self) -> bool:
        """Whether no evaluation is waited for any more."""
        return 0 < self._patience <= self._waited

    def on_epoch(self, state: State, /) -> None:
        if not self._patience or not state.evaluated:
            return
        score = max(metrics.score(self._best_by) for metrics in state.results.values())
        if score > self._best:
            self._best, self._step, self._waited = score, state.step, 0
        else:
            self._waited += 1
        if self.is_over and not state.finished:
            self._note(f"early stopping: {self.reason}")
            state.end_here()

    @property
    def reason(self) -> str:
        """What a run that is over says."""
        evaluations = "the last evaluation" if self._waited == 1 else f"the last {self._waited} evaluations"
        return (
            f"{evaluations} had no better {self._best_by} than the one at step {self._step} (patience {self._patience})"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "step": self._step, "waited": self._waited} if self._patience else {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        if not state:
            return
        best, step, waited = float(state["best"]), int(state["step"]), int(state["waited"])
        if math.isnan(best) or step < 0 or waited < 0:
            raise ValueError(f"early stopping waited {waited} evaluations since step {step}, which had {best}")
        self._best, self._step, self._waited = best, step, waited


class TimeLimit(Callback):
    """The hours that a run may take, those of its continuations included.

    What the run has taken so far stands in its checkpoints, where there is a limit: time that a kill undid is not
    counted. Everything from the start of training counts, evaluations included, except for the last one.

    Args:
        hours: 0 is no limit.
        state: its clock is the run's.
    """

    def __init__(self, hours: float, state: State) -> None:
        self._hours, self._clock = hours, state.clock
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Time taken so far."""
        return self._before + self._clock.elapsed

    @property
    def was_over(self) -> bool:
        """Whether the time was up when the checkpoint was written that the run continues from."""
        return 0 < self._hours * 3600 <= self._before

    def is_over(self) -> bool:
        """Whether the time is up."""
        return 0 < self._hours * 3600 <= self.seconds

    @property
    def reason(self) -> str:
        """What a run that is over says."""
        return f"the limit of max_hours {self._hours:g} is reached ({self.seconds / 3600:.3g} h)"

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds} if self._hours else {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        seconds = float(state.get("seconds", 0.0))
        if not 0 <= seconds < math.inf:
            raise ValueError(f"the run took {seconds} seconds")
        self._before = seconds
