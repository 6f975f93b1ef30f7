"""The predictor of an exported file whose runtime has a process of its own."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2t_vit.errors import ProgramError, UserError
from t2t_vit.files import parse_json
from t2t_vit.inference.exported import ExportedPredictor, Metadata
from t2t_vit.inference.foreign_process import ForeignProcess, Limits
from t2t_vit.installing import not_installed


class ForeignPredictor(ExportedPredictor):
    """A file in a process of its own, which ends with this object, on as many threads as PyTorch would take.

    Args:
        path: the file.
        kind: a row of the runner's table.
        runtime: the name of what runs it.
        limits: what the process may take.
        metadata: where they were read without the runtime; else the runtime reads them.
        file: another name of the file, for the runtime.
        settings: further ones of the process.

    Raises:
        ProgramError: the runtime cannot load the file within the limits.
        UserError: it was not exported by this package.
    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        runtime: str,
        limits: Limits,
        *,
        metadata: Metadata | None = None,
        file: Path | None = None,
        **settings: Any,
    ) -> None:
        try:
            self._process = ForeignProcess(
                kind, runtime, file or path, limits, threads=torch.get_num_threads(), **settings
            )
        except ProgramError as error:
            raise ProgramError(f"{path}: {error}") from error
        super().__init__(path, metadata or _metadata(path, self._process.metadata))

    def run(self, inputs: Tensor) -> Tensor:
        try:
            return torch.from_numpy(self._process.run(inputs.numpy(), (len(inputs), self.num_classes)))
        except ProgramError as error:
            raise ProgramError(f"{self.path}: {error}") from error


def require(path: str | Path, package: str, name: str, extra: str) -> None:
    """Raise UserError where the package that runs the file is not installed."""
    if find_spec(package) is None:
        raise UserError(f"{path}: {not_installed(name, extra)}")


def _metadata(path: str | Path, found: Any) -> Metadata:
    """As the runtime found them: strings by their names, or all of them as the text of a JSON object."""
    try:
        return Metadata.from_strings(parse_json(found) if isinstance(found, str) else found or {})
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
