"""Predictions by a program of torch.export."""

from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.metadata import Metadata
from t2t_vit.inference.pt2_program import Pt2Program


class Pt2Predictor(ExportedPredictor):
    """A `.pt2` file of torch.export, by PyTorch on the CPU; nothing in it is unpickled, compiled or evaluated.

    Raises:
        UserError: the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path) -> None:
        self._program = Pt2Program(path)
        try:
            metadata = Metadata.from_strings(self._program.strings)
        except ValueError as error:
            raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
        super().__init__(path, metadata)

    @torch.inference_mode()
    def run(self, inputs: Tensor) -> Tensor:
        return self._program(inputs)
