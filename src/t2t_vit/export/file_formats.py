"""The table of file formats, a row each: its ending, its writer, and what it needs here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from t2t_vit.errors import UserError
from t2t_vit.export.job import ExportJob, Kind
from t2t_vit.export.mindir import write_mindir
from t2t_vit.export.onnx import write_onnx, write_openvino, write_tensorrt
from t2t_vit.export.torch_formats import (
    AIR_UNTESTED,
    air_refusal,
    write_air,
    write_aoti,
    write_executorch,
    write_pt2,
    write_safetensors,
)
from t2t_vit.inference.exported import ExportPrecision
from t2t_vit.inference.foreign_process import Limits
from t2t_vit.inference.load import load
from t2t_vit.inference.mindir_predictor import mindspore_missing, mindspore_python
from t2t_vit.inference.predictor import Predictor
from t2t_vit.installing import install_command, not_installed


def _nothing() -> str | None:
    return None


def _open(path: Path, limits: Limits) -> Predictor:
    """What `load` makes of the file: it is verified the way that users open it."""
    # Programs were written a moment ago, by us.
    return load(path, allow_native_code=True, exported_seconds=limits.seconds, exported_memory=limits.memory)


@dataclass(frozen=True)
class Format:
    """A row: a kind of file that `export` writes.

    Attributes:
        name: of `file_format`.
        ending: of the file.
        write: writes the file, and what belongs beside it, into an empty folder.
        extra: the extra of this package that brings what is needed; empty where nothing is.
        packages: modules without which it cannot be written.
        runtime: why it cannot be run here, and so not be verified, or None.
        open: the predictor that runs it.
        precisions: what it can hold.
        dynamic_batch: whether any number of images is taken where no `batch` was asked for; else 1.
        dynamic_size: whether images of any size can be.
        program: whether it holds a graph; weights alone know nothing of batches and normalisation.
        refusal: why it cannot be written on this machine, or None.
    """

    name: str
    ending: str
    write: Callable[[ExportJob, Path], None]
    extra: str = ""
    packages: tuple[str, ...] = ()
    runtime: Callable[[], str | None] = _nothing
    open: Callable[[Path, Limits], Predictor] = _open
    precisions: tuple[ExportPrecision, ...] = ("fp32", "fp16")
    dynamic_batch: bool = True
    dynamic_size: bool = False
    program: bool = True
    refusal: Callable[[], str | None] = _nothing

    @property
    def install(self) -> str:
        """The command that brings what is missing."""
        return install_command(self.extra)

    def check(self, asked: Kind | None = None) -> None:
        """Refuse what cannot be written here, before hours of work.

        Args:
            asked: what the file is to be, or None to look at the machine alone.

        Raises:
            UserError: not on this machine, not of this kind, or packages are missing.
        """
        if refusal := self.refusal():
            raise UserError(refusal)
        if asked is not None:
            self._check_kind(asked)
        if missing := _missing(self.packages):
            raise UserError(f"file_format {self.name} needs the package {missing}; install it with: {self.install}")

    def unverified(self) -> str | None:
        """Why a file of this format cannot be verified here, or None."""
        lacking = self.runtime()
        return f"not verified: {lacking}" if lacking else None

    def _check_kind(self, asked: Kind) -> None:
        if asked.precision not in self.precisions:
            raise UserError(
                f"file_format {self.name} has no precision {asked.precision}; choose {' or '.join(self.precisions)}"
            )
        if asked.dynamic_size and not self.dynamic_size:
            raise UserError(f"file_format {self.name} has a fixed image size; leave --dynamic_size out, or use ONNX")
        if not self.program and (asked.normalised_inside or asked.batch):
            raise UserError(f"file_format {self.name} holds only weights; leave --preprocessing and --batch out")


def _missing(modules: tuple[str, ...]) -> str | None:
    for name in modules:
        try:
            import_module(name)
        except ImportError:
            return name
    return None


def _without(module: str, name: str, extra: str) -> str | None:
    return not_installed(name, extra) if _missing((module,)) else None


def _without_nvidia() -> str | None:
    if torch.cuda.is_available():
        return None
    return (
        "file_format TENSORRT builds an engine for the NVIDIA GPU of the machine, but this machine has none: nothing "
        "was written; run this command on a machine with one, or export ONNX and run trtexec --onnx=FILE there"
    )


def _without_mindspore() -> str | None:
    return None if mindspore_python() else mindspore_missing()


def _untested() -> str | None:
    return AIR_UNTESTED


FORMATS = {
    row.name: row
    for row in (
        Format(
            "ONNX",
            ".onnx",
            write_onnx,
            "export",
            ("onnx", "onnxscript"),
            partial(_without, "onnxruntime", "ONNX Runtime", "export"),
            precisions=("fp32", "fp16", "int8"),
            dynamic_size=True,
        ),
        Format("MINDIR", ".mindir", write_mindir, "mindspore", runtime=_without_mindspore),
        Format("AIR", ".air", write_air, runtime=_untested, refusal=air_refusal),
        Format("PT2", ".pt2", write_pt2),
        Format("AOTI", ".aoti.pt2", write_aoti, precisions=("fp32",)),
        Format(
            "OPENVINO",
            ".xml",
            write_openvino,
            "openvino",
            ("openvino", "onnx", "onnxscript", "nncf"),
            partial(_without, "openvino", "OpenVINO", "openvino"),
            precisions=("fp32", "fp16", "int8"),
            dynamic_size=True,
        ),
        Format(
            "EXECUTORCH",
            ".pte",
            write_executorch,
            "executorch",
            ("executorch",),
            partial(_without, "executorch", "ExecuTorch", "executorch"),
            precisions=("fp32",),
            dynamic_batch=False,
        ),
        Format(
            "TENSORRT",
            ".engine",
            write_tensorrt,
            "tensorrt",
            ("tensorrt", "onnx", "onnxscript"),
            partial(_without, "tensorrt", "TensorRT", "tensorrt"),
            refusal=_without_nvidia,
        ),
        Format("SAFETENSORS", ".safetensors", write_safetensors, program=False),
    )
}


def find_format(name: str) -> Format:
    """The row of that name.

    Raises:
        UserError: there is none.
    """
    if name not in FORMATS:
        raise UserError(f"file_format '{name}' is not known; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]
