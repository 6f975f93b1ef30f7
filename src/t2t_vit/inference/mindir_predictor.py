"""Predictions by MindSpore, of MINDIR files."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.formats.mindir import read_mindir
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.metadata import Metadata
from t2t_vit.inference.mindspore_process import MINDSPORE_MISSING, MindsporeProcess, mindspore_python


class MindirPredictor(ExportedPredictor):
    """A `.mindir` file on the CPU, in a process of its own (see `mindspore_process`) that ends with this object.

    Raises:
        UserError: MindSpore is missing, or the file is damaged or was not exported by this package.
        MindsporeError: MindSpore cannot load it.
    """

    def __init__(self, path: str | Path) -> None:
        python = mindspore_python()
        if python is None:
            raise UserError(f"{path}: {MINDSPORE_MISSING}")
        super().__init__(path, mindir_metadata(path))
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / "model.mindir"  # MindSpore looks at the ending
            named.symlink_to(Path(path).absolute())
            self._process = MindsporeProcess(python, named)

    def run(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(self._process.run(inputs.numpy()))


def mindir_metadata(path: str | Path) -> Metadata:
    """What a file says about itself; needs no MindSpore.

    Raises:
        UserError: it is damaged, or was not exported by this package.
    """
    try:
        return Metadata.from_strings(read_mindir(Path(path).read_bytes()).user_info)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: was not exported by t2t_vit, or is damaged ({error})") from error
