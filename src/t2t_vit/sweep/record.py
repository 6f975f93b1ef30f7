"""Which sweep a folder holds: the same command continues it, another one is not mixed with it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t_vit.errors import OutputError, UserError
from t2t_vit.files import LONGEST_JSON, atomic_write, parse_json, read_at_most, reason_of
from t2t_vit.report.run_files import RECORD
from t2t_vit.sweep.study import DATABASE

SWEEP = "sweep.json"
MAY_CHANGE = ("trials",)  # more of them continue a sweep


def enter(folder: Path, content: Mapping[str, Any]) -> bool:
    """Make `folder` the sweep's that `content` describes; whether it was that before.

    What a sweep left that never began to train is replaced.

    Raises:
        UserError: it holds another sweep, or something else, or cannot be written.
    """
    content = json.loads(json.dumps(content))
    path = folder / SWEEP
    try:
        taken = any(folder.iterdir()) if folder.exists() else False
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used ({error.strerror}); name another --folder") from error
    if taken and not path.exists():
        raise UserError(f"{folder}: holds files of something else than a sweep; name another --folder")
    if taken:
        held = _read(path)
        differing = [name for name in dict.fromkeys([*held, *content]) if held.get(name) != content.get(name)]
        differing = [name for name in differing if name not in MAY_CHANGE]
        if not differing:
            return True
        if any(folder.glob(f"trial-*/seed-*/logs/*/{RECORD}")):
            raise UserError(
                f"{folder}: holds another sweep (another {_named(differing, held, content)}); repeat the command that "
                "began it, name another --folder, or delete that one"
            )
        (folder / DATABASE).unlink(missing_ok=True)
        for trial in folder.glob("trial-*"):
            shutil.rmtree(trial, ignore_errors=True)
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_at_most(path, LONGEST_JSON))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); name another --folder") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not what a sweep writes; name another --folder")
    return content


def _named(differing: list[str], held: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """The parts that differ; of the configuration its keys."""
    if "configuration" not in differing:
        return " and ".join(differing)
    before, now = held.get("configuration"), content["configuration"]
    keys = [key for key in now if not isinstance(before, dict) or before.get(key) != now[key]]
    return " and ".join([*(name for name in differing if name != "configuration"), *keys[:3]])
