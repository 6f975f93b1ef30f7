"""Files -> predictors: a checkpoint's network is rebuilt, an exported file is given to its runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from t2t_vit.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.exported import ExportedPredictor
from t2t_vit.inference.foreign_process import DEFAULT_LIMITS, Limits
from t2t_vit.inference.mindir_predictor import MindirPredictor
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.runtime_predictors import (
    AotiPredictor,
    ExecuTorchPredictor,
    OnnxPredictor,
    OpenVinoPredictor,
    Pt2Predictor,
    TensorRtPredictor,
)
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT, create_model
from t2t_vit.precision import choose_precision
from t2t_vit.settings.schema import Config, checked
from t2t_vit.weights import FitReport, Weights, checkpoint_config, file_kind, fit, read_weights
from t2t_vit.weights.description import sizes_of
from t2t_vit.weights.location import GIVEN, Source, given_file
from t2t_vit.weights.reading import Which

Opener = Callable[[str | Path, Limits], ExportedPredictor]

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
PROGRAMS = frozenset({"pt2", "aoti", "tensorrt"})
_ENDINGS = {
    ".onnx": "an ONNX model",
    ".mindir": "a MINDIR model",
    ".xml": "an OpenVINO model",
    ".pte": "an ExecuTorch program",
}


def load(
    path: Source,
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
    exported_seconds: float = Limits.seconds,
    exported_memory: float = Limits.memory,
    max_pixels: int = Config.max_pixels,
    note: Callable[[str], None] = lambda _: None,
) -> Predictor:
    """A predictor from a checkpoint or an exported file, recognised by its content.

    Our own files contain network, preprocessing and class names; for other weights the network is inferred from the
    tensors and the preprocessing is ImageNet's.

        t2t_vit.load("best.ckpt").predict("cat.jpg").name

    Args:
        path: the file, its bytes, or an open file.
        arch: the expected network; another one is an error.
        num_classes: another number of classes than the head's: the head is replaced, untrained.
        image_size: side or (height, width) in pixels; default: that of the weights.
        crop_pct: share of the resized image that the crop keeps; default: that of the weights.
        which: "auto", "ema" or "raw", for checkpoints that hold both.
        device: device of PyTorch; exported files run on the CPU, except TensorRT's.
        amp_level: its precision: "O0" float32, "bf16", "O1" or "O3" float16, "auto" the fastest safe one. Exported
            files have their own; only OpenVINO's follow "bf16" and "auto".
        kernels: "reference" the plain network, in `predictor.model`; "auto" the fastest form here: on a CPU a
            frozen copy (`t2t_vit.pack`), on a GPU fused kernels (`t2t_vit.fuse`). No effect on exported files.
        allow_native_code: run files that are programs (of torch.export, AOTInductor, TensorRT). They may do anything:
            allow it only to files that you trust.
        exported_seconds: seconds that an exported file may take to load, or to answer a batch; 0: no limit. Beyond this
            and the memory limit, its process is ended.
        exported_memory: GB that the process of an exported file may use (only on Linux; not for TensorRT, which runs in
            this process); 0: no limit.
        max_pixels: width times height of the largest image that is decoded, whatever memory that takes; 0: an image
            that takes at most 268 MB and twice its file's size.
        note: called with a sentence for each adaptation.

    Raises:
        UserError: the file cannot be read, or contradicts the arguments.
        ProgramError: a UserError: the runtime cannot load an exported file, or not within the limits. Predictions
            raise it if the file fails, exceeds the limits, or answers with anything but logits.
    """
    checked("max_pixels", max_pixels)
    asked = {"num_classes": num_classes, "image_size": image_size, "crop_pct": crop_pct}
    with given_file(path) as file:
        if is_exported(file):
            limits = Limits(exported_seconds, exported_memory)
            predictor = open_exported(file, allow_native_code=allow_native_code, amp_level=amp_level, limits=limits)
            check_fixed(predictor, arch=arch, **asked)
            if file is not path:  # which is gone when the predictor is asked
                predictor.path = GIVEN
            predictor.max_pixels = max_pixels
            return predictor
        weights = read_weights(file, which)
        if file is not path:
            weights = replace(weights, path=Path(GIVEN))
        given = {key: value for key, value in asked.items() if value is not None}
        rebuilt = rebuild(weights, {**checkpoint_config(weights, arch), **given}, note)
    precision = choose_precision(amp_level, torch.device(device), training=False, note=note)
    network = TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes, precision, kernels=kernels)
    network.max_pixels = max_pixels
    return network


def is_exported(path: str | Path) -> bool:
    """Whether the file is one that `export` writes, by its content; a checkpoint is not.

    Raises:
        UserError: there is no such file, or its name says that it is an exported file and its content that it is not.
    """
    kind = file_kind(path)
    if kind in ("text", "unknown") and Path(path).suffix in _ENDINGS:
        raise UserError(f"{path}: is not {_ENDINGS[Path(path).suffix]}")
    return kind in EXPORTED


def open_exported(
    path: str | Path, *, allow_native_code: bool = False, amp_level: str = "O0", limits: Limits = DEFAULT_LIMITS
) -> ExportedPredictor:
    """The predictor of a file that `is_exported`; arguments as of `load`.

    Raises:
        UserError: it is damaged or foreign, its runtime is missing, or it is a program that was not allowed.
    """
    kind = file_kind(path)
    if kind in PROGRAMS and not allow_native_code:
        raise UserError(
            f"{path}: is a program, which may do anything on this machine; if you trust its author, "
            f"add --allow_native_code (in Python: allow_native_code=True)"
        )
    if kind == "openvino":
        return OpenVinoPredictor(path, limits, bf16=amp_level in ("bf16", "auto"))
    return EXPORTED[kind](path, limits)


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


@dataclass(frozen=True)
class Rebuilt:
    """A network in eval mode with its weights, and what belongs to it; `classes` is None where no names are known."""

    model: T2TViT
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    report: FitReport


def rebuild(weights: Weights, settings: Mapping[str, Any], note: Callable[[str], None]) -> Rebuilt:
    """The network that `settings` describe, filled with `weights`.

    Args:
        weights: as `read_weights` gives them.
        settings: a flat configuration; read are `arch`, `num_classes`, `image_size`, `in_chans`,
            `disable_approximate_gelu`, `crop_pct`, `mean` and `std`. What no setting can name, the weights decide:
            `global_pool`, `other_sizes`, `interpolation` and `crop_mode`.
        note: called with a sentence for each difference from the weights: head, position table, tensors without a use.

    Raises:
        UserError: the weights do not fit, the class count or the image size is unknown, or the network answers for each
            token, or its images are cropped in a way that is not ours.
    """
    size = _image_size(weights, settings)
    if not settings.get("num_classes"):
        raise UserError(f"{weights.path}: has no head, so the number of classes is unknown; give num_classes")
    own = weights.config or {}
    global_pool = own.get("global_pool", "token")
    if global_pool not in ("token", "avg"):
        raise UserError(
            f"{weights.path}: its global_pool is {global_pool!r}, which gives no single answer for an image; open it "
            "with t2t_vit.from_pretrained"
        )
    model = create_model(
        settings["arch"],
        num_classes=settings["num_classes"],
        in_chans=settings.get("in_chans", 3),
        image_size=size,
        approximate_gelu=not settings.get("disable_approximate_gelu", True),
        global_pool=global_pool,
        other_sizes=own.get("other_sizes"),
    )
    report = fit(model, weights.tensors, path=weights.path, chosen=weights.chosen)
    for sentence in _differences(model, weights, report):
        note(sentence)
    named = weights.classes is not None and len(weights.classes) == model.num_classes
    classes = weights.classes if named else None
    return Rebuilt(model.eval(), _preprocessing(settings, own, size), classes, report)


def _image_size(weights: Weights, settings: Mapping[str, Any]) -> tuple[int, int]:
    size = settings.get("image_size")
    if not size:
        raise UserError(f"{weights.path}: {sizes_of(weights.tensors, settings['arch'])}")
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _preprocessing(settings: Mapping[str, Any], own: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing:
    if own.get("crop_mode", "center") != "center":
        raise UserError(f"crop_mode is {own['crop_mode']!r}; here images are always cropped at the centre")
    try:
        return Preprocessing(
            image_size=size,
            crop_pct=settings.get("crop_pct", 0.9),
            mean=tuple(settings.get("mean") or IMAGENET_MEAN),
            std=tuple(settings.get("std") or IMAGENET_STD),
            in_chans=settings.get("in_chans", 3),
            interpolation=own.get("interpolation", "bicubic"),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _differences(model: T2TViT, weights: Weights, report: FitReport) -> list[str]:
    sentences = []
    if weights.unread:
        sentences.append(f"ignored in its config.json: {', '.join(weights.unread)}")
    if report.resized:
        sentences.append(
            f"the position table is computed again for {model.grid[0]} x {model.grid[1]} tokens, "
            f"as image_size {model.image_size[0]} x {model.image_size[1]} needs"
        )
    if report.new:
        head = weights.tensors.get("head.weight")
        there = "the file has none" if head is None else f"that of the file has {len(head)}"
        sentences.append(f"the head for {model.num_classes} classes is new ({there}) and untrained")
    if report.adapted:
        sentences.append(f"the first layers are adapted to {model.in_chans} input channels")
    if report.unused:
        sentences.append(f"not used: {', '.join(report.unused[:5])}{', ...' if report.unused[5:] else ''}")
    return [f"{weights.path}: {sentence}" for sentence in sentences]
