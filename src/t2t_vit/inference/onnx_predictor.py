"""Predictions by ONNX Runtime."""

from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.metadata import INPUT, OUTPUT, Metadata

RUNTIME_MISSING = 'ONNX Runtime is not installed; install it with: pip install "t2t_vit[export]"'
_ERRORS_ONLY = 3


class OnnxPredictor(ExportedPredictor):
    """An `.onnx` file on the CPU, on as many threads as PyTorch would take.

    Raises:
        UserError: ONNX Runtime is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{path}: {RUNTIME_MISSING}") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            metadata = Metadata.from_strings(self._session.get_modelmeta().custom_metadata_map)
        except ValueError as error:
            raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
        except Exception as error:  # the runtime's own classes, one for each of its status codes
            raise UserError(f"{path}: is an ONNX file that ONNX Runtime cannot load; it may be cut short") from error
        super().__init__(path, metadata)

    def run(self, inputs: Tensor) -> Tensor:
        (logits,) = self._session.run([OUTPUT], {INPUT: inputs.numpy()})  # (B, num_classes)
        return torch.from_numpy(logits)
