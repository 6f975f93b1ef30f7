"""Train, evaluate and predict from Python: the commands' own work, quiet, with results as objects.

    run = t2t_vit.train("scratch", data_url="photos")
    run.metrics.top1, run.best, run.history[-1]
    t2t_vit.evaluate(run.best, data_url="other_photos").confusion_matrix
    t2t_vit.predict("cat.jpg", run.best, top_k=3)

A mistake of the user's raises `UserError`, never SystemExit. Ctrl-C, in a notebook the stop button, saves a checkpoint
as the command line does and raises KeyboardInterrupt; `resume="auto"` continues. Signal handlers, PyTorch's generators
and its settings for products are afterwards as they were. Outside of the main thread, where no signal arrives, all else
works.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import torch

from t2t_vit.assembly.best import better
from t2t_vit.assembly.run import start_of
from t2t_vit.cli.eval import evaluate_job, write_report_of
from t2t_vit.cli.train import train_job
from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.evaluation.outcomes import ClassScore, class_scores, confusion_matrix
from t2t_vit.files import lines_of, parse_json
from t2t_vit.inference.image_like import ImageLike
from t2t_vit.inference.item import Prediction
from t2t_vit.inference.load import load
from t2t_vit.inference.predictor import Predicted, Predictor
from t2t_vit.notes import silent, tell
from t2t_vit.out_of_memory import is_out_of_memory, out_of_memory_sentence
from t2t_vit.report.run_files import HISTORY_LINES, REPORT
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.commands import COMMANDS, DEVICE
from t2t_vit.settings.devices import device_keys
from t2t_vit.settings.file import find_config, read_config
from t2t_vit.settings.schema import KEYS, checked
from t2t_vit.settings.values import Value
from t2t_vit.training.distributed import end_with_launcher, from_environment, meet
from t2t_vit.training.signals import Stopped, heard, stop_at_once
from t2t_vit.weights.location import Source

PathLike = str | Path


@dataclass(frozen=True)
class TrainedRun:
    """The result of a training.

    metrics      of the better weights at the end; with `patience`, of the best checkpoint
    weights      which weights these are: raw or ema
    checkpoint   the last checkpoint, from which `resume` continues
    best         the best checkpoint by `best_by`; None if none is kept
    folder       the run's folder of logs
    report       the report as one HTML file
    history      the rows of history.jsonl: kind (step or epoch), epoch, step, train_loss, val_top1, ...
    """

    metrics: Metrics
    weights: str
    checkpoint: Path
    best: Path | None
    folder: Path
    report: Path
    history: list[dict[str, Any]] = field(repr=False)

    def predictor(self, **options: Any) -> Predictor:
        """The best network of the run; options as in `t2t_vit.load`."""
        return load(self.best or self.checkpoint, **options)


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    metrics            loss, top1, top5, balanced_accuracy, macro_f1, count
    classes            names, in the order of the class numbers
    class_scores       count, predicted, right, precision, recall and f1 of each class
    confusion_matrix   images of the row's class that were predicted as the column's class
    measured           precision and device, such as `O0 on cpu`
    unreadable         images that could not be read, which nothing here counts
    report             the report, if one was asked for
    """

    metrics: Metrics
    classes: tuple[str, ...]
    class_scores: list[ClassScore] = field(repr=False)
    confusion_matrix: list[list[int]] = field(repr=False)
    measured: str
    unreadable: int = 0
    report: Path | None = None


def train(recipe: PathLike = "", *, verbose: bool = False, **keys: Any) -> TrainedRun:
    """Train as `t2t-vit train` does.

    Args:
        recipe: a configuration file, or the name of a shipped one.
        verbose: print the output of the command to standard error; by default nothing is printed.
        keys: configuration keys, as `t2t-vit train --help` lists them, and `device` ("cpu", "cuda:1", 0, ...). They
            override the recipe, like options on the command line.

    Raises:
        UserError: a user's mistake, or out of memory.
        KeyboardInterrupt: after a checkpoint was saved; `resume="auto"` continues.
    """
    with _at_home("train"):
        processes = from_environment()
        if processes.count > 1:
            end_with_launcher()
        meeting = meet(processes)
        start = start_of(options_of("train", recipe, keys), meeting)
        result = train_job(start, processes, meeting, quiet=not verbose)
    weights = better(result.metrics, start.config.best_by)
    logs = result.folders.logs
    return TrainedRun(
        result.metrics[weights],
        weights,
        result.checkpoint,
        result.best,
        logs,
        logs / REPORT,
        _history(logs / HISTORY_LINES),
    )


def evaluate(
    checkpoint: PathLike,
    recipe: PathLike = "",
    *,
    report: PathLike | None = None,
    allow_native_code: bool = False,
    verbose: bool = False,
    **keys: Any,
) -> Evaluation:
    """Evaluate a checkpoint or an exported file on the validation images, as `t2t-vit eval` does.

    Args:
        checkpoint: the file; it knows its data set, which `keys` may change.
        recipe: a configuration file, or the name of a shipped one.
        report: HTML file to write the report of the evaluation to.
        allow_native_code: as in `t2t_vit.load`.
        verbose: print the notes of the command to standard error.
        keys: configuration keys, such as data_url and batch_size, and `device`.

    Raises:
        UserError: a user's mistake, or out of memory.
    """
    options = options_of("eval", recipe, keys | {"pretrained": checkpoint}, native=allow_native_code)
    with _at_home("eval"):
        found = evaluate_job(options, from_environment(), tell if verbose else silent, wants_outcomes=True)
        assert found.outcomes is not None
        if report is not None:
            write_report_of(found, Path(report), os.fspath(checkpoint))
    classes = tuple(found.images.classes)
    return Evaluation(
        found.metrics,
        classes,
        class_scores(found.outcomes, len(classes)),
        confusion_matrix(found.outcomes, len(classes)).tolist(),
        found.measured,
        found.unreadable,
        None if report is None else Path(report),
    )


@overload
def predict(images: ImageLike, checkpoint: Source, **options: Any) -> Prediction: ...
@overload
def predict(images: ImageLike, checkpoint: Source, top_k: int, **options: Any) -> list[Prediction]: ...
@overload
def predict(images: Iterable[ImageLike], checkpoint: Source, **options: Any) -> list[Prediction]: ...
@overload
def predict(images: Iterable[ImageLike], checkpoint: Source, top_k: int, **options: Any) -> list[list[Prediction]]: ...
def predict(images: ImageLike | Iterable[ImageLike], checkpoint: Source, top_k: int = 0, **options: Any) -> Predicted:
    """Classify one or several images with a checkpoint or an exported file.

    The file, its bytes, or an open file is read each time; `t2t_vit.load(checkpoint)` keeps the network for
    further calls.

    Args:
        images: see `Predictor.predict`: paths, bytes, files, Pillow images, arrays (H, W, C), tensors (C, H, W).
        top_k: as there.
        options: as in `t2t_vit.load`: device, amp_level, kernels, ...

    Raises:
        UserError: the file or an image cannot be read.
    """
    with _memory_told("infer"):
        answers: Predicted = load(checkpoint, **options).predict(images, top_k=top_k)
    return answers


def options_of(command: str, recipe: PathLike, keys: Mapping[str, Any], *, native: bool = False) -> Options:
    """What the command line would have said.

    Raises:
        UserError: an unknown key, a value that it may not hold, or no such recipe.
    """
    line: dict[str, Value] = {name: _value(name, value) for name, value in keys.items() if name != DEVICE.name}
    if DEVICE.name in keys:
        try:
            line |= device_keys(str(DEVICE.read(str(keys[DEVICE.name]))), line)
        except ValueError as error:
            raise UserError(f"device {error}") from None
    path = find_config(os.fspath(recipe)) if recipe else None
    extras = {"allow_native_code": True} if native else {}
    return Options(COMMANDS[command], line, read_config(path) if path else {}, path, extras)


def _value(name: str, given: object) -> Value:
    """The value of a key: as Python has it, or in the words of the command line."""
    value = os.fspath(given) if isinstance(given, os.PathLike) else given
    if hasattr(value, "tolist"):  # NumPy's and PyTorch's numbers
        value = value.tolist()
    if name not in KEYS or not isinstance(value, str):
        return checked(name, value)
    try:
        return KEYS[name].read(value)
    except ValueError as error:
        raise UserError(f"{name} {error}") from None


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        return [parse_json(line) for line in lines_of(path)]
    except FileNotFoundError:
        return []


@contextmanager
def _at_home(command: str) -> Iterator[None]:
    """Around a command: what it changes of the process is put back, and how it ends is an error of Python's."""
    with _settings_kept(), _memory_told(command):
        try:
            with heard(stop_at_once):
                yield
        except Stopped as stopped:
            if stopped.name != "SIGINT":
                raise
            raise KeyboardInterrupt('interrupted; the same call with resume="auto" continues') from None


@contextmanager
def _memory_told(command: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError) and is_out_of_memory(error):
            raise UserError(out_of_memory_sentence(error, command)) from error
        raise


@contextmanager
def _settings_kept() -> Iterator[None]:
    """PyTorch's generators and how it multiplies float32 numbers: afterwards as before."""
    with ExitStack() as afterwards:
        afterwards.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_available():
            afterwards.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
            afterwards.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            afterwards.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
        yield
