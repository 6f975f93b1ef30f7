"""Which sweep a folder holds: the same command continues it, another one is not mixed with it."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from t2t_vit.errors import OutputError, UserError
from t2t_vit.files import read_json, reason_of, write_json
from t2t_vit.report.run_files import RECORD
from t2t_vit.settings.schema import Config, without_former_defaults
from t2t_vit.sweep.locks import alone, held_trials
from t2t_vit.sweep.space import read_over
from t2t_vit.sweep.study import DATABASE
from t2t_vit.training.run import LOCK

SWEEP = "sweep.json"
# More trials continue a sweep. Whether these are all combinations follows from the rest; older versions wrote it.
MAY_CHANGE = ("trials", "grid")


def enter(folder: Path, content: Mapping[str, Any], note: Callable[[str], None]) -> bool:
    """Make `folder` the sweep's that `content` describes; whether it was that before.

    A sweep continues with more values of its keys. What a sweep left that never began to train is replaced.

    Raises:
        UserError: it holds another sweep, or something else, or cannot be written.
    """
    content = json.loads(json.dumps(content))
    if _is_anothers(folder):
        raise UserError(f"{folder}: holds files that do not belong to a sweep; give another --folder")
    with alone(folder, note):
        held = _read(folder / SWEEP) if (folder / SWEEP).exists() else None
        goes_on = held is not None and _goes_on(folder, held, content)
        if content != held:
            write_json(folder / SWEEP, content)
    return goes_on


def check(folder: Path, content: Mapping[str, Any]) -> None:
    """Refuse to continue where another command has changed meanwhile what `folder` holds.

    Raises:
        UserError: it holds another sweep now, or this one with more values.
    """
    held = _read(folder / SWEEP)
    if _differing(held, json.loads(json.dumps(content))):
        raise UserError(
            f"{folder}: another command has begun another sweep in it, or continued this one with more values; repeat "
            "that command to share its work"
        )


def _is_anothers(folder: Path) -> bool:
    """Whether there are files, and none says that they are a sweep's."""
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used ({error.strerror}); give another --folder") from error
    return bool(names - {LOCK}) and SWEEP not in names


def _goes_on(folder: Path, held: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Whether the sweep `held` continues as `content`; if not, nothing is left of it.

    Raises:
        UserError: it began to train, and is another one, or is being trained and has fewer values.
    """
    differing = _differing(held, content)
    if not differing:
        return True
    busy = held_trials(folder)
    if differing == ["over"] and _is_larger(held["over"], content["over"]):
        if busy:
            raise UserError(f"{folder}: {busy[0]} is being trained; stop its sweep or wait for it, then add values")
        return True
    if busy or any(folder.glob(f"trial-*/seed-*/logs/*/{RECORD}")):
        raise UserError(
            f"{folder}: belongs to another sweep (with another {_named(differing, held, content)}); repeat the "
            "command that began it, give another --folder, or delete that one"
        )
    (folder / DATABASE).unlink(missing_ok=True)
    for trial in folder.glob("trial-*"):
        shutil.rmtree(trial, ignore_errors=True)
    return False


def _differing(held: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """The parts that make them two sweeps."""
    held, content = ({**each, "configuration": _complete(each.get("configuration"))} for each in (held, content))
    names = dict.fromkeys([*held, *content])
    return [name for name in names if held.get(name) != content.get(name) and name not in MAY_CHANGE]


def _complete(configuration: Any) -> Any:
    """A configuration with the present defaults for the keys that its version had others for, or did not have."""
    if not isinstance(configuration, dict):
        return configuration
    return {**Config().to_dict(), **without_former_defaults(configuration)}


def _is_larger(before: object, now: list[str]) -> bool:
    """Whether the same keys are varied, and each has all the values that it had before."""
    try:
        old = {each.key: each for each in read_over(before if isinstance(before, list) else [])}
    except (UserError, AttributeError):  # no list of texts, or not of this version
        return False
    new = read_over(now)
    return [*sorted(old)] == sorted(each.key for each in new) and all(each.contains(old[each.key]) for each in new)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); give another --folder") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not what a sweep writes; give another --folder")
    return content


def _named(differing: list[str], held: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """The parts that differ; of the configuration its keys."""
    if "configuration" not in differing:
        return " and ".join(differing)
    before, now = _complete(held.get("configuration")), _complete(content["configuration"])
    keys = [key for key in now if not isinstance(before, dict) or before.get(key) != now[key]]
    return " and ".join([*(name for name in differing if name != "configuration"), *keys[:3]])
