"""What a run reports of itself: lines on the terminal and in a log, the live bar, and rows of a history."""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO, cast

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from t2t_vit.errors import OutputError, UserError, printable
from t2t_vit.evaluation.metrics import SCORES, Metrics
from t2t_vit.files import atomic_write, lines_of, open_to_append, parse_json, reason_of
from t2t_vit.notes import silent
from t2t_vit.report.run_files import HISTORY, HISTORY_LINES
from t2t_vit.training import waiting
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.measurements import ON_ONE_CPU, Instruments, Reading, StepWindow
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


class Console:
    """Lines to standard error and to a log file; control characters in them are written out.

    Args:
        log: the file that every line is appended to, as plain text; None: no file.
        live: whether a progress bar is shown, which takes the place of the frequent lines on the screen;
            None asks whether standard error is a terminal. While lines wait, `waiting` shows its own.
        quiet: whether nothing is shown on the screen, nor a bar.
        held: whether lines wait until `begin`, which may also name the log: a run that is refused prints only why,
            and leaves nothing behind.
    """

    def __init__(
        self, log: Path | None = None, *, live: bool | None = None, quiet: bool = False, held: bool = False
    ) -> None:
        self.live = not quiet and (sys.stderr.isatty() if live is None else live)
        self.screen: Callable[[str], None] = silent if quiet else to_standard_error
        self._path = log
        self._log: TextIO | None = None
        self._held: list[str] | None = []
        if held and self.live:
            waiting.begin()
        if not held:
            self.begin()

    def begin(self, log: Path | None = None, *, keep: bool = True) -> None:
        """Open the log, unless nothing is to be kept, and print the lines that waited."""
        waiting.end()
        self._path = log or self._path
        self._log = _open_log(self._path) if keep and self._path is not None else None
        held, self._held = self._held, None
        for text in held or ():
            self.line(text)

    def line(self, text: str) -> None:
        """A line for the screen and the log."""
        if self._held is not None:
            self._held.append(text)
            return
        text = printable(text)
        self.screen(text)
        self._keep(text)

    def detail(self, text: str) -> None:
        """A line for the log, and for the screen where no bar shows the same."""
        text = printable(text)
        if not self.live:
            self.screen(text)
        self._keep(text)

    def close(self) -> None:
        """Close the log; the screen still works."""
        waiting.end()
        if self._log is not None:
            with suppress(OSError):  # a full disk, which has been reported
                self._log.close()
            self._log = None

    def _keep(self, text: str) -> None:
        if self._log is None:
            return
        try:
            self._log.write(f"{text}\n")
        except OSError as error:
            self.close()
            self.screen(f"the log can no longer be written ({error.strerror}); training continues")


def to_standard_error(text: str) -> None:
    """One line on standard error, at once; a standard error that is closed is no error."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _open_log(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return cast(TextIO, open_to_append(path, buffering=1))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); set another logs_root_dir") from error


Row = dict[str, int | float | str | None]

COLUMNS = (
    "kind", "epoch", "step", "lr", "train_loss", "grad_norm", "param_norm", "update_norm", "skipped",
    "images_per_second", "data_wait", "mfu", "memory", "seconds",
    "val_loss", "val_top1", "val_top5", "ema_loss", "ema_top1", "ema_top5",
    "val_balanced_accuracy", "val_macro_f1", "ema_balanced_accuracy", "ema_macro_f1",
)  # fmt: skip


class History:
    """Appends rows to `folder`/history.csv and history.jsonl; each row is on the disk when `add` returns.

    kind is `step` for the rows of the log lines, whose train_loss is the mean since the row before, and `epoch`
    for one row an epoch, whose train_loss is the epoch's and whose val_* (raw weights) and ema_* columns hold
    the evaluation, if there was one. epoch is a fraction. Empty (null) is unknown or not finite.

    A run that continues from a checkpoint of step `resumed_at` keeps the rows up to it, and of that step's own epoch
    row only if the epoch was `closed`; one that begins, or begins again, keeps none.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, resumed_at: int = 0, *, closed: bool = True) -> None:
        self._csv, self._jsonl = folder / HISTORY, folder / HISTORY_LINES
        with atomic_write(self._csv, "w") as table, atomic_write(self._jsonl, "w") as lines:
            table.write(_csv_text([], header=True))
            for row in _rows_up_to(self._jsonl, resumed_at, closed) if resumed_at else ():
                table.write(_csv_text([row]))
                lines.write(_json_text([row]))

    def add(self, row: Row) -> None:
        """Append one row; columns it lacks are empty."""
        complete = {name: _finite(row.get(name)) for name in COLUMNS}
        for path, text in ((self._csv, _csv_text([complete])), (self._jsonl, _json_text([complete]))):
            try:
                with open_to_append(path) as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())  # a checkpoint on the disk must not know more rows than this file
            except OSError as error:
                raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def _finite(value: int | float | str | None) -> int | float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv_text(rows: list[Row], *, header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json_text(rows: list[Row]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _rows_up_to(path: Path, step: int, closed: bool) -> Iterator[Row]:
    try:
        for line in lines_of(path) if path.exists() else ():
            try:
                row = parse_json(line)
                is_past = row["step"] < step or (row["step"] == step and (closed or row["kind"] != "epoch"))
            except (ValueError, KeyError, TypeError):  # a line cut off by a crash
                continue
            if is_past:
                yield row
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({reason_of(error)}); remove it to continue without its rows"
        ) from error


FURTHER = {
    "balanced_accuracy": "Balanced",
    "macro_f1": "MacroF1",
}  # the extra score of a log line, if checkpoints are ranked by it
PREFIX = {"raw": "val"}  # the columns of the history: val_* are the raw weights, ema_* the averaged ones


class Journal(Callback):
    """A line every `every` steps (0: none) and one an epoch, and the same as rows of the history.

    So that nobody waits for `every` slow steps to see that the run goes, there is a line after the first step and one
    some seconds later, which are no rows.
    Args:
        best_by: what the run is ranked by; the epoch's line shows it.
    """

    def __init__(
        self,
        state: State,
        console: Console,
        *,
        instruments: Instruments = ON_ONE_CPU,
        every: int = 100,
        history: History | None = None,
        best_by: str = "top1",
    ) -> None:
        self._console, self._history, self._every, self._best_by = console, history, every, best_by
        self._recent, self._whole = StepWindow(state, instruments), StepWindow(state, instruments)
        self._norms = instruments.norms
        self._epoch_began = state.clock.elapsed
        self._opening: Opening | None = Opening(state, instruments) if every else None

    def on_step(self, state: State, metrics: StepMetrics) -> None:
        self._recent.add(metrics)
        self._whole.add(metrics)
        if self._every and state.step % self._every == 0:
            reading = self._recent.read()
            self._console.detail(f"{describe_step(state, reading)}  eta {eta(state, reading)}")
            self._write("step", state, reading)
            self._opening = None
        elif self._opening is not None:
            text = self._opening.line(state, metrics)
            if text is not None:
                self._console.detail(text)
            if self._opening.is_over:
                self._opening = None

    def on_epoch(self, state: State) -> None:
        reading, seconds = self._whole.read(), state.clock.elapsed - self._epoch_began
        self._epoch_began = state.clock.elapsed
        self._console.line(describe_epoch(state, reading, seconds, self._best_by))
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
            row |= {f"{PREFIX.get(name, name)}_{key}": getattr(metrics, key) for key in SCORES}
        try:
            self._history.add(row)
        except OutputError as error:
            self._history = None
            self._console.line(f"{error}; training continues without writing more rows")


class Opening:
    """The lines of a run before its first regular one: after its first step, and `SOON` seconds of training later."""

    SOON = 10.0

    def __init__(self, state: State, instruments: Instruments) -> None:
        self._window = StepWindow(state, instruments)
        self._began = state.clock.elapsed
        self._first_at: float | None = None  # seconds of training
        self.is_over = False

    def line(self, state: State, metrics: StepMetrics) -> str | None:
        """What to print after this step, if anything. The first step's speed is left out: it may have compiled."""
        self._window.add(metrics)
        if self._first_at is None:
            self._first_at = state.clock.training
            took = duration(state.clock.elapsed - self._began)
            return "  ".join([*_beginning(state, self._window.read()), f"the first step took {took}"])
        if state.clock.training - self._first_at < self.SOON:
            return None
        self.is_over = True
        reading = self._window.read()
        return f"{describe_step(state, reading)}  eta {eta(state, reading)}"


def _beginning(state: State, reading: Reading) -> list[str]:
    return [
        f"epoch {state.epoch}/{state.epochs}",
        f"step {state.step}/{state.last_step}",
        f"loss {reading.loss:.4f}",
        f"lr {state.lr:.2e}",
    ]


def describe_step(state: State, reading: Reading) -> str:
    """One line: where the run is, loss, learning rate, images/s, share of time waiting for data, MFU, memory."""
    parts = [
        *_beginning(state, reading),
        f"{reading.images_per_second:,.0f} images/s" if reading.images_per_second >= 10
        else f"{reading.images_per_second:.2g} images/s",
        f"data wait {reading.data_wait:.0%}",
        *([] if math.isnan(reading.mfu) else [f"MFU {reading.mfu:.1%}"]),
        *([] if math.isnan(reading.memory) else [f"memory {reading.memory / 1e9:.1f} GB"]),
    ]  # fmt: skip
    if reading.scale != 1:
        parts.append(f"loss scale {reading.scale:g}")
    if reading.skipped:
        parts.append(f"{reading.skipped} updates skipped (gradient not finite)")
    return "  ".join(parts)


def describe_epoch(state: State, reading: Reading, seconds: float, best_by: str = "top1") -> str:
    """One line: the epoch's mean loss, what each set of weights scored, and how long it took."""
    parts = [f"epoch {state.epoch}/{state.epochs}", f"step {state.step}", f"train loss {reading.loss:.4f}"]
    if state.evaluated:
        parts += [f"{name}: {describe_metrics(metrics, best_by)}" for name, metrics in state.results.items()]
    if reading.skipped:
        parts.append(f"{reading.skipped} updates skipped (gradient not finite)")
    return "  ".join([*parts, f"time {duration(seconds)}"])


def describe_metrics(metrics: Metrics, best_by: str = "top1") -> str:
    """Loss, accuracies and what checkpoints are ranked by, rounded for people."""
    shown = f"Loss {metrics.loss:.4f} Top1 {metrics.top1:.2%} Top5 {metrics.top5:.2%}"
    if best_by in FURTHER:
        shown += f" {FURTHER[best_by]} {getattr(metrics, best_by):.2%}"
    return shown


def eta(state: State, reading: Reading) -> str:
    """Time to the last step at the present speed, without the evaluations still to come."""
    return duration((state.last_step - state.step) * reading.seconds_per_step)


def duration(seconds: float) -> str:
    """H:MM:SS."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


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
            TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"), console=terminal, refresh_per_second=4, expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=state.last_step, completed=state.step, now="the first step")
        self._console, self._interval = console, interval
        self._window, self._read_at = StepWindow(state, instruments), -interval
        console.screen = lambda text: terminal.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
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
        memory = "" if math.isnan(reading.memory) else f"{reading.memory / 1e9:.1f} GB "
        skipped = f" skipped {reading.skipped}" if reading.skipped else ""
        return (
            f"loss {reading.loss:.3f} lr {state.lr:.1e} {reading.images_per_second:,.0f} img/s "
            f"wait {reading.data_wait:.0%} {mfu}{memory}"
            f"eta {eta(state, reading)}{skipped}"
        )
