"""Predictions by ExecuTorch."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.metadata import Metadata
from t2t_vit.inference.quiet import quiet

RUNTIME_MISSING = 'ExecuTorch is not installed; install it with: pip install "t2t_vit[executorch]"'
# The method that answers with the metadata, in JSON.
METHOD = "t2t_vit"


class ExecuTorchPredictor(ExportedPredictor):
    """A `.pte` file, on the CPU.

    Raises:
        UserError: ExecuTorch is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            with quiet():
                from executorch.runtime import Runtime, Verification
        except ImportError as error:
            raise UserError(f"{path}: {RUNTIME_MISSING}") from error
        content = Path(path).read_bytes()
        if not _is_whole(content):
            raise UserError(f"{path}: is an ExecuTorch program that is cut short")
        try:
            self._program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
            names = self._program.method_names
            self._method: Any = self._program.load_method("forward")
            said = self._program.load_method(METHOD).execute([])[0] if METHOD in names else "{}"
        except RuntimeError as error:
            raise UserError(f"{path}: is an ExecuTorch program that the runtime cannot load") from error
        try:
            metadata = Metadata.from_strings(json.loads(said))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
        super().__init__(path, metadata)

    def run(self, inputs: Tensor) -> Tensor:
        (logits,) = self._method.execute([inputs])
        return torch.as_tensor(logits).clone()  # the next call writes into the same memory


def _is_whole(content: bytes) -> bool:
    """Whether the extended header ("eh00" behind the flatbuffer's name) claims no more bytes than there are."""
    if content[8:12] != b"eh00" or len(content) < 32:
        return len(content) >= 32
    program = int.from_bytes(content[16:24], "little")
    segments = int.from_bytes(content[24:32], "little")
    size = int.from_bytes(content[32:40], "little") if int.from_bytes(content[12:16], "little") >= 32 else 0
    return len(content) >= max(program, segments + size)
