"""Predictions -> a file."""

import json
from collections.abc import Mapping
from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write, check_folder


def write_predictions(path: str | Path, predictions: Mapping[str, int]) -> None:
    """One JSON object, the image's path to its class number, in sorted order; the file appears whole or not at all.

    Characters beyond ASCII are escaped: paths need not be valid Unicode, and so they come back unchanged.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(Path(path), "w") as file:
        json.dump(predictions, file, indent=1, sort_keys=True)
        file.write("\n")


def check_output(path: str | Path) -> None:
    """Refuse, before hours of work, a place that no file can be written to.

    Raises:
        UserError: it is empty or a folder, or lies where no file can be made.
    """
    if not str(path):
        raise UserError("output is empty; name a file")
    if Path(path).is_dir():
        raise UserError(f"output '{path}': is a folder; name a file in it")
    check_folder(Path(path).parent, f"output '{path}':")
