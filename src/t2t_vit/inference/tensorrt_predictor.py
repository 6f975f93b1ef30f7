"""Predictions by a TensorRT engine."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.metadata import INPUT, OUTPUT, Metadata

RUNTIME_MISSING = 'TensorRT is not installed; install it with: pip install "t2t_vit[tensorrt]"'
_LENGTH_BYTES = 4
_LONGEST_METADATA = 2**22


class TensorRtPredictor(ExportedPredictor):
    """An engine, on the GPU that it was built for. **It is native code**: it is loaded only where `load` was told
    `allow_native_code`. The file is the length of the metadata (4 bytes, little end first), the metadata, the engine.

    Raises:
        UserError: TensorRT or a GPU is missing, the file is damaged, was not exported by this package, or is of another
            GPU or version of TensorRT.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import tensorrt
        except ImportError as error:
            raise UserError(f"{path}: {RUNTIME_MISSING}") from error
        if not torch.cuda.is_available():
            raise UserError(f"{path}: is a TensorRT engine, which needs an NVIDIA GPU; there is none here")
        metadata, engine = _parts(path)
        super().__init__(path, metadata)
        loaded: Any = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(engine)
        if loaded is None:
            raise UserError(f"{path}: holds an engine of another GPU or of another version of TensorRT; export it here")
        self._engine, self._context = loaded, loaded.create_execution_context()

    def run(self, inputs: Tensor) -> Tensor:
        images = inputs.cuda().contiguous()
        logits = torch.empty(len(images), self.num_classes, device=images.device)
        self._context.set_input_shape(INPUT, tuple(images.shape))
        self._context.set_tensor_address(INPUT, images.data_ptr())
        self._context.set_tensor_address(OUTPUT, logits.data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise UserError(f"{self.path}: TensorRT could not run the engine on {len(images)} images")
        stream.synchronize()
        return logits.cpu()


def engine_head(metadata: Metadata) -> bytes:
    """What stands before the engine in the file."""
    told = json.dumps(metadata.to_strings()).encode()
    return len(told).to_bytes(_LENGTH_BYTES, "little") + told


def _parts(path: str | Path) -> tuple[Metadata, bytes]:
    content = Path(path).read_bytes()
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if length > min(_LONGEST_METADATA, len(content)):
        raise UserError(f"{path}: is a damaged TensorRT engine")
    try:
        told = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
        return Metadata.from_strings(told), content[_LENGTH_BYTES + length :]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: was not exported by t2t_vit ({error})") from error
