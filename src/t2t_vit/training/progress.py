"""The live bar."""

import math
from time import perf_counter

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from t2t_vit.training.callbacks import Callback
from t2t_vit.training.console import Console, to_standard_error
from t2t_vit.training.journal import eta
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics
from t2t_vit.training.window import ON_ONE_CPU, Instruments, Window


class LiveBar(Callback):
    """A bar at the foot of the terminal; the console's lines scroll above it.

    It reads the loss about once in `interval` seconds: that is how often the host waits for the device.
    """

    def __init__(
        self,
        state: State,
        console: Console,
        *,
        instruments: Instruments = ON_ONE_CPU,
        interval: float = 1.0,
        terminal: RichConsole | None = None,
    ) -> None:
        terminal = terminal or RichConsole(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[now]}"),
            console=terminal, refresh_per_second=4, expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=state.last_step, completed=state.step, now="starting")
        self._console, self._interval = console, interval
        self._window, self._read_at = Window(state, instruments), -interval
        console.screen = lambda text: terminal.print(text, markup=False, highlight=False, soft_wrap=True)
        self._bar.start()

    def on_step(self, state: State, metrics: StepMetrics) -> None:
        self._window.add(metrics)
        description = f"epoch {state.epoch}/{state.epochs}"
        self._bar.update(self._task, completed=state.step, description=description)
        if perf_counter() - self._read_at >= self._interval:
            self._read_at = perf_counter()
            self._bar.update(self._task, now=self._now(state))

    def on_evaluated(self, weights: str, done: int, batches: int) -> None:
        self._bar.update(self._task, now=f"evaluating {weights} weights, {done} of {batches} batches")

    def on_epoch(self, _: State) -> None:
        self._bar.refresh()

    def close(self) -> None:
        self._bar.stop()
        self._console.screen = to_standard_error

    def _now(self, state: State) -> str:
        reading = self._window.read()
        mfu = "" if math.isnan(reading.mfu) else f"MFU {reading.mfu:.0%} "
        skipped = f" skipped {reading.skipped}" if reading.skipped else ""
        return (
            f"loss {reading.loss:.3f} lr {state.lr:.1e} {reading.images_per_second:,.0f} img/s "
            f"wait {reading.data_wait:.0%} {mfu}{reading.memory / 1e9:.1f} GB "
            f"eta {eta(state, reading)}{skipped}"
        )
