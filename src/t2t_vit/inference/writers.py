"""Predictions -> a file."""

import json
from collections.abc import Mapping
from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write


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
        UserError: it is a folder, or lies under something that is no folder.
    """
    if Path(path).is_dir():
        raise UserError(f"output '{path}': is a folder; name a file in it")
    above = next((folder for folder in Path(path).absolute().parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise UserError(f"output '{path}': {above} is a file, not a folder")
