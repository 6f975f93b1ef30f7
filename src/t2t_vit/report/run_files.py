"""The files of a run's logs folder that a report is made of."""

import csv
import errno
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.files import read_at_most, read_json, reason_of

HISTORY, RECORD, EVALUATION, REPORT = "history.csv", "run.json", "evaluation.json", "report.html"
HISTORY_LINES = "history.jsonl"  # the rows of HISTORY, an object each
ANSWERS = "answers.npy"
# The configuration keys that say where a run's four folders are: its checkpoints, the best ones, summary and logs.
ROOT_KEYS = ("ckpt_root_dir", "best_ckpt_root_dir", "summary_root_dir", "logs_root_dir")
_LONGEST_HISTORY = 64 * 2**20  # bytes; 200,000 rows, each of which takes several times that in memory
_MOST_ROWS = 300_000

Row = dict[str, str]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class RunFiles:
    """What a run left so far.

    rows         of history.csv, empty where there is none
    record       run.json: what the run is; empty where there is none
    evaluation   evaluation.json: the last look at the trained network; empty where the run did not come to its end
    """

    folder: Path
    rows: list[Row]
    record: dict[str, Any]
    evaluation: dict[str, Any]

    def points(self, column: str, kind: str) -> Points:
        """Epochs and values of the rows of one kind, where both are numbers; the same list each time."""
        found = self._points.get((column, kind))
        if found is None:
            rows = [row for row in self.rows if row.get("kind") == kind]
            pairs = [(_number(row.get("epoch")), _number(row.get(column))) for row in rows]
            found = [(epoch, value) for epoch, value in pairs if epoch is not None and value is not None]
            self._points[column, kind] = found
        return found

    @cached_property
    def _points(self) -> dict[tuple[str, str], Points]:
        """What `points` found so far: a history may have 200,000 rows, and a page asks for a column several times."""
        return {}

    def steps(self, column: str) -> Points:
        """The course of `column` by the rows of the log lines, or by those of the epochs where these are more."""
        return max(self.points(column, "step"), self.points(column, "epoch"), key=len)

    def best(self, column: str) -> tuple[float, float] | None:
        """(epoch, value) of the largest value after an epoch, the earliest of equal ones."""
        return max(self.points(column, "epoch"), key=lambda point: (point[1], -point[0]), default=None)


def holds_run(folder: Path) -> bool:
    """Whether `folder` is the logs folder of a run."""
    return any((folder / name).is_file() for name in (HISTORY, RECORD, EVALUATION))


def read_run(folder: Path) -> RunFiles:
    """The files of a run's logs folder, as far as they are there.

    Raises:
        UserError: it is no such folder, or a file in it is damaged.
    """
    if not holds_run(folder):
        what = "is not a folder" if not folder.is_dir() else f"holds no {HISTORY}"
        raise UserError(f"{folder}: {what}; give the logs folder of a run, such as runs/logs/t2t_vit_14")
    return RunFiles(folder, _rows(folder / HISTORY), _json(folder / RECORD), _json(folder / EVALUATION))


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    try:
        content = io.BytesIO(read_at_most(path, _LONGEST_HISTORY))
        rows = list(islice(csv.DictReader(io.TextIOWrapper(content, encoding="utf-8", newline="")), _MOST_ROWS + 1))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise _too_long(path, f"{_LONGEST_HISTORY:,} bytes") from error
        reason = reason_of(error)
        raise UserError(
            f"{path}: cannot be read as the history of a run ({reason}); remove it to make a report without it"
        ) from error
    if len(rows) > _MOST_ROWS:
        raise _too_long(path, f"{_MOST_ROWS:,} rows")
    return rows


def _too_long(path: Path, most: str) -> UserError:
    return UserError(
        f"{path}: has more than {most}, too many for a report; keep its rows that do not "
        f"begin with step, (grep -v ^step, {path.name}), or move it elsewhere to make a report without it"
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise UserError(f"{path}: cannot be read ({reason}); remove it to make a report without it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not in the form that a run writes; remove it to make a report without it")
    return content


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:  # a line that a crash cut short
        return None


def thinned(points: Sequence[tuple[float, float]], most: int = 400) -> Points:
    """At most about `most` points that look the same when drawn: of each stretch the lowest and the highest."""
    if len(points) <= most:
        return list(points)
    size = -(-2 * len(points) // most)
    kept: Points = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return [points[0], *kept[1:-1], points[-1]] if len(kept) > 1 else kept
