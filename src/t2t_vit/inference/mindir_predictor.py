"""Predictions by MindSpore, of MINDIR files. It may need another environment than PyTorch."""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.formats.mindir import read_mindir
from t2t_vit.inference.exported import Metadata
from t2t_vit.inference.foreign_predictor import ForeignPredictor
from t2t_vit.inference.foreign_process import DEFAULT_LIMITS, Limits
from t2t_vit.installing import not_installed

VARIABLE = "T2T_VIT_MINDSPORE_PYTHON"


class MindirPredictor(ForeignPredictor):
    """A `.mindir` file on the CPU.

    Raises:
        UserError: MindSpore is missing, or the file is damaged or was not exported by this package.
        ProgramError: MindSpore cannot load it within the limits.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        python = mindspore_python()
        if python is None:
            raise UserError(f"{path}: {mindspore_missing()}")
        metadata = mindir_metadata(path)
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / "model.mindir"  # MindSpore looks at the ending
            named.symlink_to(Path(path).absolute())
            super().__init__(path, "mindir", "MindSpore", limits, metadata=metadata, file=named, python=python)


def mindir_metadata(path: str | Path) -> Metadata:
    """What a file says about itself; needs no MindSpore.

    Raises:
        UserError: it is damaged, or was not exported by this package.
    """
    try:
        return Metadata.from_strings(read_mindir(Path(path).read_bytes()).user_info)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: was not exported by t2t_vit, or is damaged ({error})") from error


def mindspore_python() -> str | None:
    """The Python to run MindSpore with: the one that the environment variable names, else this one if it has it.

    Raises:
        UserError: the named one is no program.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return sys.executable if importlib.util.find_spec("mindspore") else None
    if not (Path(named).is_file() and os.access(named, os.X_OK)):
        raise UserError(f"{VARIABLE} '{named}': is not a program; give the Python of an environment with MindSpore")
    return named


def mindspore_missing() -> str:
    """The sentence on MindSpore that is not there."""
    return (
        f"{not_installed('MindSpore', 'mindspore')}, or give the Python of an environment that has it: "
        f"{VARIABLE}=/path/to/python"
    )
