"""The runs that are compared, and which of them are one configuration with several seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2t_vit.errors import UserError
from t2t_vit.evaluation.answers import read_answers
from t2t_vit.notes import counted
from t2t_vit.report.run_files import ANSWERS, EVALUATION, RECORD, ROOT_KEYS, Points, RunFiles, read_run
from t2t_vit.settings.schema import KEYS, SECTIONS, without_former_defaults

# What a run is called, where it writes and what it reports there: nothing that it could be better by.
NAMING = frozenset({"model_postfix", "resume", "tracker", *ROOT_KEYS})
# What the numbers of a run do not depend on, besides: runs that differ in these and the seed alone are one group.
_NO_MATTER = (
    NAMING
    | frozenset(SECTIONS["Callbacks setup"])
    | {"seed", "num_parallel_workers", "cache", "dataset_sink_mode", "device_id", "file_format", "runtime"}
    | {"exported_seconds", "exported_memory", "skipped_steps_limit"}
)

TEXTS = ("amp_level", "ckpt_root_dir", "best_ckpt_root_dir", "logs_root_dir")  # keys that lead to its checkpoints


@dataclass(frozen=True)
class ComparedRun:
    """A run, and the answer to each of its validation images where they are stored (rows of `evaluation.answers`)."""

    files: RunFiles
    name: str
    answers: NDArray[np.void] | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its configuration; a key that its version did not have, or for which it had another default, has the present
        one."""
        sections = self.files.record.get("configuration", [])
        held = {each["key"]: each["value"] for section in sections for each in section["keys"]}
        own = {name: list(d) if isinstance(d := key.default, tuple) else d for name, key in KEYS.items()}
        own |= without_former_defaults(held)
        return {name: KEYS[name].written(value) if name in KEYS else value for name, value in own.items()}

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end, where it looks at its images a last time."""
        return bool(self.files.evaluation)

    @property
    def is_configured(self) -> bool:
        """Whether its configuration is known; early versions did not keep it."""
        return bool(self.files.record.get("configuration"))

    @property
    def seed(self) -> int | None:
        return self.settings["seed"] if self.is_configured else None

    @cached_property
    def weights(self) -> str:
        """raw or ema: what the run reports; of one that did not come to its end, what scored higher."""
        if self.files.evaluation:
            return str(self.files.evaluation["weights"])
        raw, ema = (self.files.best(f"{column}_top1") for column in ("val", "ema"))
        return "ema" if ema is not None and (raw is None or ema[1] > raw[1]) else "raw"

    def of_weights(self, name: str) -> Points:
        """Epochs and values of `loss` or `top1` on the validation images, with the weights that the run reports."""
        return self.files.points(f"{'ema' if self.weights == 'ema' else 'val'}_{name}", "epoch")

    @property
    def top1(self) -> float | None:
        """Of the run's last look at its images; of one that did not come to its end, the last that is known."""
        if self.files.evaluation:
            return float(self.files.evaluation["top1"])
        return self._last("top1")

    @property
    def loss(self) -> float | None:
        if self.files.evaluation:
            found = self.files.evaluation["loss"]
            return None if found is None else float(found)
        return self._last("loss")

    def _last(self, name: str) -> float | None:
        points = self.of_weights(name)
        return points[-1][1] if points else None

    @property
    def class_accuracy(self) -> dict[str, tuple[float, int]]:
        """The accuracy of each class that has images, and how many."""
        found = self.files.evaluation
        rows = zip(found["classes"], found["class_scores"], strict=True) if found else ()
        return {str(name): (float(row["recall"]), int(row["count"])) for name, row in rows if row["count"]}

    @cached_property
    def clock(self) -> dict[float, float]:
        """Epoch -> seconds since the run began, evaluations included."""
        elapsed, seconds = {}, 0.0
        for epoch, value in self.files.points("seconds", "epoch"):
            seconds += value
            elapsed[epoch] = seconds
        return elapsed

    @property
    def seconds(self) -> float | None:
        return max(self.clock.values(), default=None)

    @property
    def images_per_second(self) -> float | None:
        values = [value for _, value in self.files.steps("images_per_second")]
        return median(values) if values else None

    @property
    def steps(self) -> float | None:
        return max((value for _, value in self.files.points("step", "epoch")), default=None)

    @property
    def parameters(self) -> float | None:
        return self.files.record.get("parameters")


def top1(run: ComparedRun) -> float | None:
    """For the means and spreads of a group."""
    return run.top1


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, which differ in the seed at most.

    A run that did not come to its end is no sample of its configuration, so means, spreads, curves and tests are of
    the others. Where none came to its end, all are shown as far as they came, and nothing is tested.
    """

    runs: list[ComparedRun] = field(default_factory=list)

    @property
    def measured(self) -> list[ComparedRun]:
        """The runs that its numbers are of."""
        return [run for run in self.runs if run.is_finished] or self.runs

    @property
    def left_out(self) -> list[ComparedRun]:
        """The others: runs that did not come to their end, in a group in which some did."""
        return [run for run in self.runs if not run.is_finished] if any(run.is_finished for run in self.runs) else []

    @property
    def name(self) -> str:
        """That of the first run that is measured, and how many seeds there are."""
        runs = self.measured
        first, seeds = runs[0].name, len({run.seed for run in runs})
        if len(runs) == 1:
            return first
        counts = counted(seeds, "seed") if seeds == len(runs) else f"{len(runs)} runs of {counted(seeds, 'seed')}"
        return f"{first} ({counts})"

    def values(self, of: Callable[[ComparedRun], float | None]) -> list[float]:
        """The number of each seed, where it is known; of several runs of one seed, which may be copies, their mean."""
        found: dict[int | None, list[float]] = {}
        for run in self.measured:
            if (value := of(run)) is not None:
                found.setdefault(run.seed, []).append(value)
        return [fmean(values) for values in found.values()]

    def mean(self, of: Callable[[ComparedRun], float | None]) -> float | None:
        values = self.values(of)
        return fmean(values) if values else None

    def spread(self, of: Callable[[ComparedRun], float | None]) -> float | None:
        """Standard deviation over the seeds (n - 1); None of a single one."""
        values = self.values(of)
        return stdev(values) if len(values) > 1 else None

    @property
    def class_accuracy(self) -> dict[str, float]:
        """The mean over the runs, by class."""
        each = [run.class_accuracy for run in self.measured if run.is_finished]
        names = [name for name in each[0] if all(name in found for found in each)] if each else []
        return {name: fmean(found[name][0] for found in each) for name in names}

    def course(self, of: Callable[[ComparedRun], Points], *, by_seconds: bool = False) -> Points:
        """The mean over the runs of values over the epochs, where all of them have one; over seconds where asked."""
        courses = [dict(of(run)) for run in self.measured]
        epochs = sorted(set.intersection(*map(set, courses)))
        clocks = [run.clock for run in self.measured]
        if by_seconds:
            epochs = [epoch for epoch in epochs if all(epoch in clock for clock in clocks)]
        places = [fmean(clock[epoch] for clock in clocks) for epoch in epochs] if by_seconds else epochs
        return [(at, fmean(course[epoch] for course in courses)) for at, epoch in zip(places, epochs, strict=True)]


def read_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """The runs of these logs folders, by names that tell them apart.

    Raises:
        UserError: a folder without a run, a file that is damaged, a run that is named twice.
    """
    seen: dict[str, Path] = {}
    files = []
    for folder in folders:
        found = read_run(folder)
        mark = found.record.get("run")
        key = str(mark["id"]) if isinstance(mark, dict) and "id" in mark else str(folder.resolve())
        if key in seen:
            raise UserError(f"{folder}: is the run of {seen[key]} again; give each run only once")
        seen[key] = folder
        files.append(found)
    runs = [
        ComparedRun(each, name, read_answers(path) if (path := each.folder / ANSWERS).is_file() else None)
        for each, name in zip(files, _names(files), strict=True)
    ]
    for run in runs:
        _check(run)
    return runs


def _check(run: ComparedRun) -> None:
    """Refuse files in which something is of another kind than a run writes.

    Raises:
        UserError: the sentence names them.
    """
    try:
        numbers = [run.top1, run.loss, run.seconds, run.images_per_second, run.steps, run.parameters, run.seed]
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError("a number is not finite")
        hash((run.weights, *run.class_accuracy))
        if not all(isinstance(run.settings[key], str) for key in TEXTS):
            raise ValueError("a folder or a precision is not text")
        if type(run.settings["val_num_samples"]) is not int:
            raise ValueError("val_num_samples is not a whole number")
        hash(run.settings["val_seed"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        folder = run.files.folder
        raise UserError(
            f"{folder}: {RECORD} or {EVALUATION} is not as a run writes it ({type(error).__name__}: {error})"
        ) from error


def _names(files: Sequence[RunFiles]) -> list[str]:
    """The name of each run; where two have the same, what their paths differ in."""
    names = [str(each.record.get("name", each.folder.name)) for each in files]
    if len(set(names)) == len(names):
        return names
    parts = [list(each.folder.resolve().parts) for each in files]
    for end in (-1, 0):
        while all(parts) and len({part[end] for part in parts}) == 1:
            for part in parts:
                del part[end]
    return ["/".join(part) or str(each.folder) for part, each in zip(parts, files, strict=True)]


def grouped(runs: Sequence[ComparedRun]) -> list[Group]:
    """Runs of the same network, images and keys, apart from the seed and from keys that no number depends on."""
    groups: dict[str, Group] = {}
    for run in runs:
        record = run.files.record
        kept = {name: value for name, value in run.settings.items() if name not in _NO_MATTER}
        counts = [record.get(name) for name in ("training_images", "validation_images", "classes")]
        key = repr((sorted(kept.items(), key=lambda item: item[0]), counts))
        key = key if run.is_configured else str(run.files.folder)  # what is not known is not the same
        groups.setdefault(key, Group()).runs.append(run)
    return list(groups.values())


def differing_keys(groups: Sequence[Group]) -> dict[str, list[list[Any]]]:
    """Key -> for each group its values, each once; only keys that differ within or between the groups.

    Of a run whose configuration is not known there is no value, and nothing that it could differ in.
    """
    found: dict[str, list[list[Any]]] = {}
    for key in KEYS:
        if key in NAMING:
            continue
        rows = [[run.settings[key] for run in group.measured if run.is_configured] for group in groups]
        flat = [value for row in rows for value in row]
        if any(value != flat[0] for value in flat):
            found[key] = [_each_once(row) for row in rows]
    return found


def _each_once(values: Sequence[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept
