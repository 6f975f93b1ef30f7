"""What a run says of itself in lines and rows."""

import math
from collections.abc import Mapping
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.console import Console
from t2t_vit.training.history import History, Row
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics
from t2t_vit.training.window import ON_ONE_CPU, Instruments, Reading, Window

PREFIX = {"raw": "val"}  # the columns of the history: val_* are the raw weights, ema_* the averaged ones


class Journal(Callback):
    """A line every `every` steps (0: none) and one an epoch, and the same as rows of the history."""

    def __init__(
        self,
        state: State,
        console: Console,
        *,
        instruments: Instruments = ON_ONE_CPU,
        every: int = 100,
        history: History | None = None,
    ) -> None:
        self._console, self._history, self._every = console, history, every
        self._recent, self._whole = Window(state, instruments), Window(state, instruments)
        self._norms = instruments.norms
        self._epoch_began = state.clock.elapsed

    def on_step(self, state: State, metrics: StepMetrics) -> None:
        self._recent.add(metrics)
        self._whole.add(metrics)
        if self._every and state.step % self._every == 0:
            reading = self._recent.read()
            self._console.detail(f"{describe_step(state, reading)}  eta {eta(state, reading)}")
            self._write("step", state, reading)

    def on_epoch(self, state: State) -> None:
        reading, seconds = self._whole.read(), state.clock.elapsed - self._epoch_began
        self._epoch_began = state.clock.elapsed
        self._console.line(describe_epoch(state, reading, seconds))
        self._write("epoch", state, reading, seconds)

    def state_dict(self) -> dict[str, Any]:
        norms = self._norms.state_dict() if self._norms else {}
        return {"recent": self._recent.state_dict(), "whole": self._whole.state_dict(), "norms": norms}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        if state:
            self._recent.load_state_dict(state["recent"])
            self._whole.load_state_dict(state["whole"])
        if state and self._norms:
            self._norms.load_state_dict(state["norms"])

    def _write(self, kind: str, state: State, reading: Reading, seconds: float | None = None) -> None:
        if self._history is None:
            return
        row: Row = {
            "kind": kind,
            "epoch": state.step / state.updates_per_epoch,
            "step": state.step,
            "lr": state.lr,
            "train_loss": reading.loss,
            "grad_norm": reading.grad_norm,
            "param_norm": reading.param_norm,
            "update_norm": reading.update_norm,
            "skipped": reading.skipped,
            "images_per_second": reading.images_per_second,
            "data_wait": reading.data_wait,
            "mfu": reading.mfu,
            "memory": reading.memory,
            "seconds": seconds,
        }
        for name, metrics in state.results.items() if kind == "epoch" and state.evaluated else ():
            row |= {f"{PREFIX.get(name, name)}_{key}": getattr(metrics, key) for key in ("loss", "top1", "top5")}
        try:
            self._history.add(row)
        except UserError as error:
            self._history = None
            self._console.line(f"{error}; training goes on, no more rows are kept")


def describe_step(state: State, reading: Reading) -> str:
    """One line: where the run is, loss, learning rate, images/s, share of time waiting for data, MFU, memory."""
    parts = [
        f"epoch {state.epoch}/{state.epochs}",
        f"step {state.step}/{state.last_step}",
        f"loss {reading.loss:.4f}",
        f"lr {state.lr:.2e}",
        f"{reading.images_per_second:,.0f} images/s" if reading.images_per_second >= 10
        else f"{reading.images_per_second:.2g} images/s",
        f"data wait {reading.data_wait:.0%}",
        *([] if math.isnan(reading.mfu) else [f"MFU {reading.mfu:.1%}"]),
        f"memory {reading.memory / 1e9:.1f} GB",
    ]  # fmt: skip
    if reading.scale != 1:
        parts.append(f"loss scale {reading.scale:g}")
    if reading.skipped:
        parts.append(f"{reading.skipped} updates skipped (gradient not finite)")
    return "  ".join(parts)


def describe_epoch(state: State, reading: Reading, seconds: float) -> str:
    """One line: the epoch's mean loss, what each set of weights scored, and how long it took."""
    parts = [f"epoch {state.epoch}/{state.epochs}", f"step {state.step}", f"train loss {reading.loss:.4f}"]
    if state.evaluated:
        parts += [f"{name}: {describe_metrics(metrics)}" for name, metrics in state.results.items()]
    if reading.skipped:
        parts.append(f"{reading.skipped} updates skipped (gradient not finite)")
    return "  ".join([*parts, f"time {duration(seconds)}"])


def describe_metrics(metrics: Metrics) -> str:
    """Loss and accuracies, rounded for people."""
    return f"Loss {metrics.loss:.4f} Top1 {metrics.top1:.2%} Top5 {metrics.top5:.2%}"


def eta(state: State, reading: Reading) -> str:
    """Time to the last step at the present speed, without the evaluations still to come."""
    return duration((state.last_step - state.step) * reading.seconds_per_step)


def duration(seconds: float) -> str:
    """H:MM:SS."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
