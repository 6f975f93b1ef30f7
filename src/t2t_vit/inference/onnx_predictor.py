"""Predictions by ONNX Runtime."""

from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.onnx_metadata import INPUT, OUTPUT, OnnxMetadata
from t2t_vit.inference.predictor import Predictor

RUNTIME_MISSING = 'ONNX Runtime is not installed; install it with: pip install "t2t_vit[export]"'
_ERRORS_ONLY = 3


class OnnxPredictor(Predictor):
    """A file that `export` wrote, on the CPU; its metadata carry the preprocessing and the class names.

    Args:
        path: the file, only named in messages where its `content` is given.

    Raises:
        UserError: ONNX Runtime is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path, content: bytes | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{path}: {RUNTIME_MISSING}") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        try:
            model = str(path) if content is None else content
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            metadata = OnnxMetadata.from_strings(self._session.get_modelmeta().custom_metadata_map)
        except ValueError as error:
            raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
        except Exception as error:  # the runtime's own classes, one for each of its status codes
            raise UserError(f"{path}: is an ONNX file that ONNX Runtime cannot load; it may be cut short") from error
        self.arch = metadata.arch
        super().__init__(metadata.preprocessing, metadata.classes)

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return int(self._session.get_outputs()[0].shape[1])

    def logits(self, images: Tensor) -> Tensor:
        normalised = self.preprocessing.normalize(images)  # (B, in_chans, height, width)
        (logits,) = self._session.run([OUTPUT], {INPUT: normalised.numpy()})  # (B, num_classes)
        return torch.from_numpy(logits)
