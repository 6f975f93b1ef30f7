"""A network -> a file that is proven before it appears."""

import copy
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.export.onnx import check_exporter, onnx_bytes
from t2t_vit.export.verify import Agreement, verify
from t2t_vit.files import atomic_write
from t2t_vit.inference.onnx_metadata import OnnxMetadata
from t2t_vit.inference.onnx_predictor import RUNTIME_MISSING, OnnxPredictor
from t2t_vit.inference.torch_predictor import TorchPredictor

ENDINGS = {"ONNX": ".onnx", "MINDIR": ".mindir", "AIR": ".air"}

_REFUSALS = {
    "MINDIR": "file_format MINDIR is not available in this version; use ONNX",
    "AIR": (
        "file_format AIR needs an Ascend machine with CANN, and this is none: nothing was written; "
        "use ONNX, which CANN's atc (--framework=5) converts there"
    ),
}


class DisagreementError(Exception):
    """A file that did not give the network's answers, and was removed."""

    def __init__(self, path: Path, agreement: Agreement) -> None:
        super().__init__(f"{path}: not written, since it does not agree with the network: {agreement}")
        self.agreement = agreement


@dataclass(frozen=True)
class Exported:
    """A file and its proof; `agreement` is None where its runtime is missing, which `unverified` then says."""

    path: Path
    agreement: Agreement | None
    unverified: str | None = None


def check_format(file_format: str) -> None:
    """Refuse, before anything is loaded, a format that cannot be written here.

    Raises:
        UserError: unknown, not for this machine, not in this version, or its packages are missing.
    """
    if file_format in _REFUSALS:
        raise UserError(_REFUSALS[file_format])
    if file_format not in ENDINGS:
        raise UserError(f"file_format '{file_format}' is not known; choose one of {', '.join(ENDINGS)}")
    check_exporter()


def export_model(
    predictor: TorchPredictor, path: str | Path, *, arch: str, file_format: str, images: Tensor
) -> Exported:
    """Write the network of `predictor` to `path`, unless the file gives other answers than the network in float32.

    Args:
        predictor: brings network, preprocessing and class names; left as it is.
        arch: the network's name, for the metadata.
        file_format: "ONNX".
        images: real ones to compare on, uint8 (N, in_chans, height, width), at least one.

    Raises:
        UserError: the format cannot be written here, or the path cannot be written.
        DisagreementError: the file did not agree; what was at `path` before is kept.
    """
    check_format(file_format)
    path = Path(path)
    model = copy.deepcopy(predictor.model).cpu().float()
    reference = TorchPredictor(model, predictor.preprocessing, predictor.classes)
    content = onnx_bytes(reference.model, OnnxMetadata(arch, predictor.preprocessing, predictor.classes))
    with atomic_write(path) as file:
        file.write(content)
        agreement = _proof(path, content, reference, images)
        if agreement is not None and not agreement.agrees:
            raise DisagreementError(path, agreement)
    return Exported(path, agreement, None if agreement else f"not verified: {RUNTIME_MISSING}")


def _proof(path: Path, content: bytes, reference: TorchPredictor, images: Tensor) -> Agreement | None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return None
    return verify(OnnxPredictor(path, content), reference, images)
