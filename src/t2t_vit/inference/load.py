"""The short way from a file to answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from t2t_vit.errors import UserError
from t2t_vit.inference.onnx_predictor import OnnxPredictor
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.rebuild import rebuild
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_precision
from t2t_vit.weights import checkpoint_config, file_kind, read_weights
from t2t_vit.weights.read import Which


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
    note: Callable[[str], None] = lambda _: None,
) -> Predictor:
    """A predictor from a checkpoint or an exported `.onnx` file, told apart by content.

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
        device: where PyTorch runs; an ONNX file runs on the CPU.
        amp_level: its precision: "O0" float32, "bf16", "O1" or "O3" float16, "auto" the fastest safe one.
        note: told, a sentence each, what was fitted.

    Raises:
        UserError: the file cannot be read, or contradicts the arguments.
    """
    kind = file_kind(path)
    asked = {"num_classes": num_classes, "image_size": image_size, "crop_pct": crop_pct}
    given = {key: value for key, value in asked.items() if value is not None}
    if kind == "onnx":
        return _load_onnx(path, arch, given)
    if kind in ("text", "unknown") and Path(path).suffix == ".onnx":
        raise UserError(f"{path}: is not an ONNX model")
    weights = read_weights(path, which)
    rebuilt = rebuild(weights, {**checkpoint_config(weights, arch), **given}, note)
    precision = choose_precision(amp_level, torch.device(device), training=False, note=note)
    return TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes, precision)


def _load_onnx(path: str | Path, arch: str | None, given: dict[str, Any]) -> OnnxPredictor:
    predictor = OnnxPredictor(path)
    if arch is not None and arch != predictor.arch:
        raise UserError(f"{path}: holds {predictor.arch}, not arch '{arch}'")
    size = given.get("image_size")
    wanted = (size, size) if isinstance(size, int) else size
    fixed = {
        "num_classes": (predictor.num_classes, given.get("num_classes")),
        "image_size": (predictor.preprocessing.image_size, wanted and tuple(wanted)),
        "crop_pct": (predictor.preprocessing.crop_pct, given.get("crop_pct")),
    }
    for key, (there, asked) in fixed.items():
        if asked is not None and asked != there:
            raise UserError(
                f"{path}: is an ONNX file, fixed at {key} {there}; export the checkpoint again with {asked}"
            )
    return predictor
