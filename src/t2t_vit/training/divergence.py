"""Updates whose gradient was not finite: counted, named by their images, and in the end a reason to stop."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from t2t_vit.errors import UserError
from t2t_vit.files import LONGEST_LINE, atomic_write, lines_of, open_to_append, parse_json
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics

SHOWN = 8


def _nameless(_: int) -> Sequence[str]:
    return ()


class StopOnDivergence(Callback):
    """Ends the run after `limit` updates in a row without a finite gradient, which were skipped and moved nothing.

    It looks once in `limit` updates, so the host waits for the device that seldom. All processes see the same
    gradients, so all of them stop together.

    Args:
        names: the images of the update that made this step, of all processes.
        advice: what may help, besides a lower learning rate.
        log: a file that gets a row {"step", "images"} for each skipped update, and how many "more" images there are
            if a line cannot hold all; None: none is kept.
        note: reports where the log is when the first update is skipped.

    Raises:
        UserError: from `on_step` and `on_epoch`, with the names of the last one's images; `state.diverged_since` is
            then the first update of the streak.
    """

    def __init__(
        self,
        limit: int = 20,
        *,
        names: Callable[[int], Sequence[str]] = _nameless,
        advice: Sequence[str] = (),
        log: Path | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.limit = limit
        self._names, self._log, self._note = names, log, note
        self._advice = ", or ".join(["lower --base_lr", *advice])
        self._unread: list[tuple[int, torch.Tensor]] = []
        self._streak: list[int] = []
        self._looked = 0  # the last step that was checked

    def on_step(self, state: State, metrics: StepMetrics, /) -> None:
        self._unread.append((state.step, metrics.skipped))
        if len(self._unread) >= self.limit:
            self._look(state)

    def on_epoch(self, state: State, /) -> None:
        self._look(state)

    def on_stop(self, _: State, whole: bool, /) -> None:
        if whole:
            self._keep([step for step, skipped in self._unread if skipped])

    def state_dict(self) -> dict[str, Any]:
        unread = {str(step): skipped for step, skipped in self._unread}
        return {"looked": self._looked, "streak": list(self._streak), "unread": unread}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        looked, streak = int(state["looked"]), [int(step) for step in state["streak"]]
        unread = [(int(step), skipped) for step, skipped in state["unread"].items()]
        if any(skipped.shape != () or skipped.is_complex() for _, skipped in unread):
            raise ValueError("whether an update was skipped is one flag")
        self._looked, self._streak, self._unread = looked, streak, unread
        if self._log is not None and self._log.exists():
            with atomic_write(self._log, "w") as file:
                file.writelines(row for row in lines_of(self._log) if _step(row) <= self._looked)

    def _look(self, state: State) -> None:
        if not self._unread:
            return
        device = self._unread[-1][1].device
        flags = torch.stack([skipped.to(device) for _, skipped in self._unread]).tolist()  # waits here
        steps = [step for step, _ in self._unread]
        self._looked = steps[-1]
        self._unread.clear()
        self._keep([step for step, skipped in zip(steps, flags, strict=True) if skipped])
        for step, skipped in zip(steps, flags, strict=True):
            self._streak = [*self._streak, step] if skipped else []
            if len(self._streak) >= self.limit:
                state.diverged_since = self._streak[0]
                raise UserError(self._explained())

    def _explained(self) -> str:
        names = self._names(self._streak[-1])
        images = f"; the images of the last one: {', '.join(names[:SHOWN])}" if names else ""
        if len(names) > SHOWN:
            images += f" and {len(names) - SHOWN} more" + (f", all in {self._log}" if self._log else "")
        return (
            f"training diverged: {self.limit} updates in a row, steps {self._streak[0]} to {self._streak[-1]}, had a "
            f"loss or gradient that was not finite and were skipped; {self._advice}{images}"
        )

    def _keep(self, steps: Sequence[int]) -> None:
        """Rows for the skipped updates; a disk that takes none is no reason to stop."""
        if not steps or self._log is None:
            return
        rows = [_row(step, self._names(step)) for step in steps]
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open_to_append(self._log) as file:
                file.write("".join(f"{row}\n" for row in rows))
        except OSError:
            self._log = None
            return
        if self._note is not None:
            self._note(
                f"step {steps[0]}: the gradient was not finite and the update was skipped; the names of its images, "
                f"and of every later such step, are in {self._log}"
            )
            self._note = None


def _row(step: int, names: Sequence[str]) -> str:
    """A row of the log, of as many names as a line that is read again may hold."""
    row = json.dumps({"step": step, "images": list(names)})
    named = len(names)
    while len(row) >= LONGEST_LINE:
        named //= 2
        row = json.dumps({"step": step, "images": list(names[:named]), "more": len(names) - named})
    return row


def _step(row: str) -> float:
    """The step of a row of the log; a row that a kill cut short is past every step."""
    try:
        step: int = parse_json(row)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
    return step
