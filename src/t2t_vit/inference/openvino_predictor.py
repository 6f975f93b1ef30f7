"""Predictions by OpenVINO."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.metadata import INPUT, Metadata

RUNTIME_MISSING = 'OpenVINO is not installed; install it with: pip install "t2t_vit[openvino]"'
# Where the metadata, in JSON, stand in the file's rt_info.
SECTION = "t2t_vit"


class OpenVinoPredictor(ExportedPredictor):
    """An `.xml` file with its `.bin` beside it, on the CPU, on as many threads as PyTorch would take.

    Args:
        bf16: compute in bfloat16 where the processor can, as OpenVINO does by default; otherwise in float32.

    Raises:
        UserError: OpenVINO is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path, *, bf16: bool = False) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UserError(f"{path}: {RUNTIME_MISSING}") from error
        if not Path(path).with_suffix(".bin").is_file():
            raise UserError(f"{path}: its weights, {Path(path).with_suffix('.bin').name}, are missing beside it")
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            metadata = _metadata(model, path)
            self._model = core.compile_model(model, "CPU", hints)
        except RuntimeError as error:
            raise UserError(f"{path}: is an OpenVINO model that OpenVINO cannot load; it may be cut short") from error
        super().__init__(path, metadata)

    def run(self, inputs: Tensor) -> Tensor:
        answers = self._model({INPUT: inputs.numpy()})
        return torch.from_numpy(answers[0].copy())  # (B, num_classes)


def _metadata(model: Any, path: str | Path) -> Metadata:
    try:
        told = model.get_rt_info([SECTION]).astype(str) if model.has_rt_info([SECTION]) else "{}"
        return Metadata.from_strings(json.loads(told))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
