"""A checkpoint of ours -> all that its run needs to continue, each entry of the kind and range that a run writes."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from t2t_vit.errors import CheckpointError, UserError, printable
from t2t_vit.formats.torch_archive import read_torch_archive
from t2t_vit.weights.kind import file_kind
from t2t_vit.weights.reading import NEWEST_VERSION, holds_weights
from t2t_vit.weights.torch_file import own_content

# What `training.checkpoint` writes so that a run can continue; a weights file alone lacks them.
RUN_ENTRIES = {
    "arch": str,
    "config": dict,
    "classes": list,
    "step": int,
    "model": dict,
    "optimizer": dict,
    "data": dict,
    "progress": dict,
    "metrics": dict,
    "best": dict,
    "followers": dict,
}
_LARGEST = 2**63  # of a counter or a digest
_Check = Callable[[Any], bool]


@dataclass(frozen=True)
class SavedRun:
    """A run at the moment that a checkpoint of ours was written.

    path      the file
    content   all of it, as `training.checkpoint.checkpoint_content` describes; tensors on the CPU
    """

    path: Path
    content: dict[str, Any] = field(repr=False)

    @property
    def step(self) -> int:
        """Updates made."""
        step: int = self.content["step"]
        return step


def read_saved_run(path: str | Path) -> SavedRun:
    """The run that the checkpoint holds. Nothing in the file is run, every checksum in it is verified.

    What names, counts and scores are is checked here; whether tensors fit the network and its optimizer is for
    `training.checkpoint.restore`.

    Raises:
        CheckpointError: no such file, damaged, foreign, of a version that kept too little, or an entry is not what a
            run writes.
    """
    try:
        return _read(path)
    except UserError as error:  # also of those who read its bytes
        raise CheckpointError(str(error)) from error


def _read(path: str | Path) -> SavedRun:
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; give a checkpoint in it, such as last.ckpt, or auto for the newest run")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give a checkpoint of the run, or auto for the newest run")
    kind = file_kind(path)
    instead = f"--pretrained {path} with exclude_epoch_state True starts a new run from its weights"
    if kind != "torch":
        if not holds_weights(kind):
            instead = "give a checkpoint of the run, such as last.ckpt, or auto for the newest run"
        raise UserError(f"{path}: is not a checkpoint of a t2t_vit run, so there is nothing to continue; {instead}")
    content = read_torch_archive(path)
    if type(content) is not dict or content.get("format") != "t2t_vit":
        raise UserError(f"{path}: holds weights but no t2t_vit run to continue; {instead}")
    if type(version := content.get("version")) is not int or version > NEWEST_VERSION:
        raise UserError(f"{path}: was written by a newer version of t2t_vit; update t2t_vit")
    lacking = [name for name, form in RUN_ENTRIES.items() if type(content.get(name)) is not form]
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}, so its run cannot be continued; {instead}")
    content = own_content(Path(path), content)
    if wrong := next(_wrong(content), None):
        raise UserError(f"{path}: its run cannot be continued: {printable(wrong[:200])}; {instead}")
    return SavedRun(Path(path), content)


def _wrong(content: Mapping[str, Any]) -> Iterator[str]:
    """Entries that no run writes, a sentence each."""
    step = content["step"]
    yield from _wrong_values("", {"step": step, "epoch": content.get("epoch", 1)}, {"step": _count, "epoch": _number})
    yield from _wrong_values("data.", content["data"], {"updates_per_epoch": _number}, _count)
    yield from _wrong_values("run.", content.get("run", {}), {}, _text)
    progress = {"lr": _rate, "evaluated_at": _step_up_to(step, -1), "closed_at": _step_up_to(step), "ended": _flag}
    yield from _wrong_values("progress.", content["progress"], progress)
    if not all(type(name) is str for name in content["classes"]):
        yield "a name of a class is not text"
    yield from _wrong_values("", {"scaler": content.get("scaler")}, {"scaler": _state_or_none})
    for name in ("model", "ema"):
        if content.get(name) is not None and not _is_state_dict(content[name]):
            yield f"{name} is not a state dict of tensors"
    yield from _wrong_average(content.get("average"))
    for name, scores in content["metrics"].items():
        if name == "step":
            yield from _wrong_values("metrics.", {"step": scores}, {"step": _step_up_to(step, -1)})
        else:
            yield from _wrong_values(f"metrics.{name}.", scores, SCORES)
            if type(scores) is dict and not {"loss", "top1", "top5", "count"} <= scores.keys():
                yield f"metrics.{name} lacks a score"
    for name, entries in content["best"].items():
        if type(entries) not in (list, tuple):
            yield f"best.{name} is not a list"
            continue
        for entry in entries:
            yield from _wrong_values(f"best.{name}.", entry, {"file": _file_name, "step": _count, **SCORES})
            if type(entry) is dict and not {"file", "step", "loss"} <= entry.keys():
                yield f"best.{name} has an entry without file, step or loss"
    for name, state in content["followers"].items():
        if type(name) is not str or type(state) is not dict:
            yield f"followers.{name} is not a state"


def _wrong_average(average: Any) -> Iterator[str]:
    if average is None:
        return
    yield from _wrong_values("average.", average, {"epoch": _count, "count": _count, "kept": _state_dicts})
    if type(average) is dict and not {"epoch", "count", "kept"} <= average.keys():
        yield "average lacks epoch, count or kept"


def _wrong_values(
    where: str, found: Any, checks: Mapping[str, _Check], otherwise: _Check | None = None
) -> Iterator[str]:
    """What is wrong with the values of a dictionary; keys without a check are held to `otherwise`, or foreign."""
    if type(found) is not dict:
        yield f"{where.rstrip('.')} is not a dictionary"
        return
    for name, value in found.items():
        check = checks.get(name, otherwise) if type(name) is str else None
        if check is None:
            yield f"{where}{name} is not an entry of a run"
        elif not check(value):
            yield f"{where}{name} is {str(value)[:60]}"


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _number(value: Any) -> bool:
    return _count(value) and value > 0


def _step_up_to(last: Any, first: int = 0) -> _Check:
    return lambda value: type(value) is int and type(last) is int and first <= value <= last


def _text(value: Any) -> bool:
    return type(value) is str and len(value) <= 1000


def _file_name(value: Any) -> bool:
    return _text(value) and Path(value).name == value


def _flag(value: Any) -> bool:
    return type(value) is bool


def _rate(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _score(value: Any) -> bool:
    return type(value) in (int, float)  # a diverged run has NaN


def _share(value: Any) -> bool:
    return _score(value) and (math.isnan(value) or 0 <= value <= 1)


def _state_or_none(value: Any) -> bool:
    return value is None or _is_state_dict(value)


def _state_dicts(value: Any) -> bool:
    return type(value) in (list, tuple) and all(_is_state_dict(one) for one in value)


def _is_state_dict(value: Any) -> bool:
    return type(value) is dict and all(type(name) is str and isinstance(one, Tensor) for name, one in value.items())


SCORES: Mapping[str, _Check] = {
    "loss": _score,
    "count": _count,
    **dict.fromkeys(("top1", "top5", "balanced_accuracy", "macro_f1"), _share),
}
