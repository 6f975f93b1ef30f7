"""`runtime`: what computes the answers of a checkpoint on a CPU."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from t2t_vit.cli.console import tell
from t2t_vit.errors import UserError
from t2t_vit.export.write import Evidence, export_model
from t2t_vit.inference.load import open_exported
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.runtime import Candidate, fastest
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import Precision
from t2t_vit.settings.schema import Config


class Form(NamedTuple):
    """How a network gets into another runtime."""

    file_format: str
    file: str
    packages: tuple[str, ...]


FORMS = {
    "openvino": Form("OPENVINO", "network.xml", ("openvino", "onnx", "onnxscript")),
    "onnxruntime": Form("ONNX", "network.onnx", ("onnxruntime", "onnx", "onnxscript")),
}
# Of the largest logit. In bfloat16 two runtimes round in other places, in float32 they add in another order.
TOLERANCE = {"O0": 1e-3, "bf16": 5e-2}
_WORTH_MEASURING = 64  # batches


@dataclass(frozen=True)
class Work:
    """What is ahead.

    Attributes:
        batch: images of a batch.
        count: counts the images; 0 where only reading them would tell.
        some: up to a batch of them, prepared for that predictor: uint8 (B, in_chans, height, width).
    """

    batch: int
    count: Callable[[], int]
    some: Callable[[Predictor], Tensor]


def in_runtime(own: TorchPredictor, config: Config, work: Work) -> tuple[str, Predictor]:
    """The name of the runtime that `config` asks for, or that is the fastest for `work`, and the network in it.

    Raises:
        UserError: another runtime than PyTorch is asked for by name, and it is not installed or not for this.
    """
    name, precision = config.runtime, own.precision.name
    fits = own.precision.device.type == "cpu" and precision in TOLERANCE
    if name == "torch" or (name == "auto" and not fits):
        return "torch", own
    if name != "auto":
        _check(name, own.precision)
        tell(f"runtime: converting the network for {name}")
        return name, _converted(own, config, name, work.some(own))
    others = [name for name in FORMS if not _missing(name)]
    count = work.count() if others else 0
    if count < _WORTH_MEASURING * work.batch:
        return "torch", own
    images = work.some(own)
    return fastest(
        Candidate("torch", lambda: own),
        [Candidate(name, partial(_converted, own, config, name, images)) for name in others],
        images,
        count,
        tolerance=TOLERANCE[precision],
        note=tell,
    )


def _check(name: str, precision: Precision) -> None:
    if precision.device.type != "cpu" or precision.name not in TOLERANCE:
        raise UserError(
            f"runtime {name} computes on the CPU, in float32 or bf16; not on {precision.device.type} in "
            f"{precision.name}: leave it out, or say device_target CPU and amp_level O0, bf16 or auto"
        )
    if missing := _missing(name):
        extra = "openvino" if name == "openvino" else "export"
        raise UserError(
            f"runtime {name} needs {missing[0]}, which is not installed; install it with: "
            f'pip install "t2t_vit[{extra}]"'
        )


def _missing(name: str) -> list[str]:
    return [package for package in FORMS[name].packages if find_spec(package) is None]


def _converted(own: TorchPredictor, config: Config, name: str, images: Tensor) -> Predictor:
    """The network in another runtime, by a file that was held against it and is gone when it is loaded."""
    form, precision = FORMS[name], own.precision.name
    with tempfile.TemporaryDirectory(prefix="t2t_vit-") as folder:
        path = Path(folder) / form.file
        evidence = Evidence(images[: min(len(images), 8)])
        export_model(own, path, arch=config.arch, file_format=form.file_format, evidence=evidence)
        return open_exported(path, amp_level=precision)
