"""The short way from a file to answers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from t2t_vit.errors import UserError
from t2t_vit.inference.exported import ExportedPredictor
from t2t_vit.inference.mindir_predictor import MindirPredictor
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.pt2_predictor import Pt2Predictor
from t2t_vit.inference.rebuild import rebuild
from t2t_vit.inference.runtime_predictors import (
    AotiPredictor,
    ExecuTorchPredictor,
    OnnxPredictor,
    OpenVinoPredictor,
    TensorRtPredictor,
)
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_precision
from t2t_vit.weights import checkpoint_config, file_kind, read_weights
from t2t_vit.weights.read import Which

Opener = Callable[[str | Path], ExportedPredictor]

# What runs each kind of exported file, by the name that `file_kind` gives it.
EXPORTED: Mapping[str, Opener] = {
    "onnx": OnnxPredictor,
    "mindir": MindirPredictor,
    "pt2": Pt2Predictor,
    "aoti": AotiPredictor,
    "openvino": OpenVinoPredictor,
    "executorch": ExecuTorchPredictor,
    "tensorrt": TensorRtPredictor,
}
NATIVE = frozenset({"aoti", "tensorrt"})
_ENDINGS = {
    ".onnx": "an ONNX model",
    ".mindir": "a MINDIR model",
    ".xml": "an OpenVINO model",
    ".pte": "an ExecuTorch program",
}


def load(
    path: str | Path,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    crop_pct: float | None = None,
    which: Which = "auto",
    device: str | torch.device = "cpu",
    amp_level: str = "O0",
    kernels: str = "reference",
    allow_native_code: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Predictor:
    """A predictor from a checkpoint or from any file that `export` wrote, told apart by content.

    Our own files bring network, preprocessing and class names; of foreign weights the network is read off the tensors
    and the preprocessing is ImageNet's.

        t2t_vit.load("best.ckpt").predict("cat.jpg").name

    Args:
        path: the file.
        arch: what it is expected to be; an error if it is not.
        num_classes: another class count than the head's: the head is replaced, untrained.
        image_size: side or (height, width) in pixels, if not the one of the weights.
        crop_pct: share of the resized image that the crop keeps, if not the one of the weights.
        which: "auto", "ema" or "raw", for checkpoints that hold both.
        device: where PyTorch runs; exported files run on the CPU, but for TensorRT's.
        amp_level: its precision: "O0" float32, "bf16", "O1" or "O3" float16, "auto" the fastest safe one. Exported
            files have their own; of them OpenVINO's follow "bf16" and "auto".
        kernels: "reference", the network as it is, in `predictor.model`; "auto", the fastest way here: on a CPU a
            frozen copy (`t2t_vit.pack`), on a GPU its own kernels (`t2t_vit.fuse`). Exported files are their own way.
        allow_native_code: run files that hold compiled code (AOTInductor's, TensorRT's). Such code may do anything:
            allow it only to files that you trust like a program.
        note: told, a sentence each, what was fitted.

    Raises:
        UserError: the file cannot be read, or contradicts the arguments.
    """
    if is_exported(path):
        predictor = open_exported(path, allow_native_code=allow_native_code, amp_level=amp_level)
        check_fixed(predictor, arch=arch, num_classes=num_classes, image_size=image_size, crop_pct=crop_pct)
        return predictor
    asked = {"num_classes": num_classes, "image_size": image_size, "crop_pct": crop_pct}
    given = {key: value for key, value in asked.items() if value is not None}
    weights = read_weights(path, which)
    rebuilt = rebuild(weights, {**checkpoint_config(weights, arch), **given}, note)
    precision = choose_precision(amp_level, torch.device(device), training=False, note=note)
    return TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes, precision, kernels=kernels)


def is_exported(path: str | Path) -> bool:
    """Whether the file is one that `export` writes, by its content; a checkpoint is not.

    Raises:
        UserError: there is no such file, or its name says that it is an exported file and its content that it is not.
    """
    kind = file_kind(path)
    if kind in ("text", "unknown") and Path(path).suffix in _ENDINGS:
        raise UserError(f"{path}: is not {_ENDINGS[Path(path).suffix]}")
    return kind in EXPORTED


def open_exported(path: str | Path, *, allow_native_code: bool = False, amp_level: str = "O0") -> ExportedPredictor:
    """The predictor of a file that `is_exported`; arguments as of `load`.

    Raises:
        UserError: it is damaged or foreign, its runtime is missing, or it is native code that was not allowed.
    """
    kind = file_kind(path)
    if kind in NATIVE and not allow_native_code:
        raise UserError(
            f"{path}: holds native code, which may do anything on this machine; if you trust it like a program, "
            f"say so with --allow_native_code (in Python: allow_native_code=True)"
        )
    if kind == "openvino":
        return OpenVinoPredictor(path, bf16=amp_level in ("bf16", "auto"))
    return EXPORTED[kind](path)


def check_fixed(predictor: ExportedPredictor, **asked: Any) -> None:
    """Refuse another network, class count, size or crop than the file was exported with; take a size where it is free.

    Raises:
        UserError: one of `asked`, by the names of `load`, differs.
    """
    if asked.get("arch") not in (None, predictor.arch):
        raise UserError(f"{predictor.path}: holds {predictor.arch}, not arch '{asked['arch']}'")
    size = asked.get("image_size")
    wanted = (size, size) if isinstance(size, int) else size
    if wanted and predictor.metadata.dynamic_size:
        predictor.preprocessing = replace(predictor.preprocessing, image_size=tuple(wanted))
    fixed = {
        "num_classes": (predictor.num_classes, asked.get("num_classes")),
        "image_size": (predictor.preprocessing.image_size, wanted and tuple(wanted)),
        "crop_pct": (predictor.preprocessing.crop_pct, asked.get("crop_pct")),
    }
    for key, (there, value) in fixed.items():
        if value is not None and value != there:
            raise UserError(
                f"{predictor.path}: is exported, fixed at {key} {there}; export the checkpoint again with {value}"
            )
