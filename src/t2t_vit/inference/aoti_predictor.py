"""Predictions by code that AOTInductor compiled."""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.metadata import Metadata
from t2t_vit.inference.quiet import quiet

ENTRY = "extra/t2t_vit.json"


class AotiPredictor(ExportedPredictor):
    """An AOTInductor package, on the CPU that it was compiled for. **It is native code**: it may do whatever a program
    may do, so it is loaded only where `load` was told `allow_native_code`.

    Raises:
        UserError: the file is damaged, was not exported by this package, or cannot run here.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, _metadata(path))
        try:
            with quiet():
                self._model: Any = torch._inductor.aoti_load_package(str(path))
        except Exception as error:  # of the loader, the linker or the code itself
            raise UserError(
                f"{path}: holds compiled code that cannot be loaded here; it runs on the kind of machine and with the "
                f"version of torch that it was compiled with"
            ) from error

    @torch.inference_mode()
    def run(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self._model(inputs)
        return answer.clone()  # the code may use its memory again


def _metadata(path: str | Path) -> Metadata:
    """What the package says of itself, read without running it."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.partition("/")[2] == ENTRY]
            return Metadata.from_strings(json.loads(archive.read(name)))
    except (ValueError, zipfile.BadZipFile, OSError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: is compiled code that was not exported by t2t_vit, or is damaged") from error
