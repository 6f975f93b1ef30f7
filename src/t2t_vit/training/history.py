"""The numbers of a run as rows, for plots and spreadsheets: history.csv and history.jsonl."""

import csv
import io
import json
import math
import os
from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write

Row = dict[str, int | float | str | None]

COLUMNS = (
    "kind", "epoch", "step", "lr", "train_loss", "grad_norm", "param_norm", "update_norm", "skipped",
    "images_per_second", "data_wait", "mfu", "memory", "seconds",
    "val_loss", "val_top1", "val_top5", "ema_loss", "ema_top1", "ema_top5",
)  # fmt: skip


class History:
    """Appends rows to `folder`/history.csv and history.jsonl; each row is on the disk when `add` returns.

    kind is `step` for the rows of the log lines, whose train_loss is the mean since the row before, and `epoch`
    for one row an epoch, whose train_loss is the epoch's and whose val_* (raw weights) and ema_* columns hold
    the evaluation, if there was one. epoch is a fraction. Empty (null) is unknown or not finite.

    A new run sets the files of an earlier one aside (`history.old.csv`); one that goes on from a checkpoint of
    step `resumed_at` keeps the rows up to it, and of that step's own epoch row only if the epoch was `closed`.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, resumed_at: int = 0, *, closed: bool = True) -> None:
        self._csv, self._jsonl = folder / "history.csv", folder / "history.jsonl"
        kept = _rows_up_to(self._jsonl, resumed_at, closed) if resumed_at else []
        for path, text in ((self._csv, _csv_text(kept, header=True)), (self._jsonl, _json_text(kept))):
            if not resumed_at and path.exists():
                path.replace(path.with_suffix(f".old{path.suffix}"))
            with atomic_write(path, "w") as file:
                file.write(text)

    def add(self, row: Row) -> None:
        """Append one row; columns it lacks are empty."""
        complete = {name: _finite(row.get(name)) for name in COLUMNS}
        for path, text in ((self._csv, _csv_text([complete])), (self._jsonl, _json_text([complete]))):
            try:
                with path.open("a", encoding="utf-8", newline="") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())  # a checkpoint that is on the disk must not know more rows than this
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror})") from error


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


def _rows_up_to(path: Path, step: int, closed: bool) -> list[Row]:
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            is_past = row["step"] < step or (row["step"] == step and (closed or row["kind"] != "epoch"))
        except (ValueError, KeyError, TypeError):  # the line that a crash cut short
            continue
        if is_past:
            rows.append(row)
    return rows
