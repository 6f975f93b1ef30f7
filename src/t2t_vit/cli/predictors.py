"""The options of a command that predicts -> its predictor, in the runtime that computes its answers."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, cast

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.export.write import Evidence, export_model
from t2t_vit.fast.kernels import check_kernels
from t2t_vit.inference.exported import ExportedPredictor
from t2t_vit.inference.foreign_process import Limits
from t2t_vit.inference.load import check_fixed, is_exported, open_exported, rebuild
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.runtime_choice import Candidate, fastest
from t2t_vit.inference.torch_predictor import TorchPredictor, Workload, plan_for
from t2t_vit.installing import install_command
from t2t_vit.notes import tell
from t2t_vit.precision import Precision, choose_device, choose_precision, choose_products
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config
from t2t_vit.training.compilation import obstacle_to_compiling
from t2t_vit.weights import checkpoint_config, read_weights


class Form(NamedTuple):
    """How a network gets into another runtime."""

    file_format: str
    file: str
    packages: tuple[str, ...]


FORMS = {
    "openvino": Form("OPENVINO", "network.xml", ("openvino", "onnx", "onnxscript")),
    "onnxruntime": Form("ONNX", "network.onnx", ("onnxruntime", "onnx", "onnxscript")),
}
# Of the largest logit. In bfloat16 runtimes round at different places, in float32 they add in a different order.
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


def open_predictor(options: Options, work: Work) -> tuple[str, Predictor]:
    """The checkpoint or exported file that the options name, where and as they say; says what it is.

    Also the name of the runtime that was chosen for a checkpoint; empty of an exported file, which has its own.

    Raises:
        UserError: it cannot be read, or contradicts the options.
    """
    path = options.required_checkpoint()
    if is_exported(path):
        return "", _exported(options, path)
    config, own = _opened(options, path, work)
    return in_runtime(own, config, work)


def torch_predictor(options: Options, path: str) -> TorchPredictor:
    """The plain network of a checkpoint, which can be looked into, where the options say; prints what it is."""
    return _opened(options, path, None, kernels="reference")[1]


def _opened(
    options: Options, path: str, work: Work | None, kernels: str | None = None
) -> tuple[Config, TorchPredictor]:
    weights = read_weights(path)
    config, notes = resolve(options, checkpoint_config(weights, _arch(options)))
    device = choose_device(config.device_target, config.device_id, required=False, note=notes.append)
    precision = choose_precision(config.amp_level, device, training=False, note=notes.append)
    choose_products(precision, notes.append)
    kernels = kernels or config.kernels
    check_kernels(kernels, device)
    rebuilt = rebuild(weights, config.to_dict(), notes.append)
    for text in notes:
        tell(text)
    # Counting reads every name, which is worth it only for an accelerator's engine or a choice of runtimes.
    known = Workload(work.count(), work.batch) if work is not None and device.type == "cuda" else Workload()
    plan = plan_for(device.type, known, lambda: obstacle_to_compiling(device))
    engine = f", {plan}" if device.type == "cuda" else ""
    tell(f"{path}: {config.arch}, {weights.chosen} weights, {device.type}, {precision.name}{engine}")
    predictor = TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes, precision, plan, kernels)
    tell(f"network: {predictor.made_of}")
    return config, predictor


def open_asked(options: Options, path: str) -> ExportedPredictor:
    """An exported file, which says everything itself; what the command line says besides has to agree.

    Raises:
        UserError: it does not, or the file cannot be run.
    """
    line = options.line
    predictor = open_exported(
        path,
        allow_native_code="allow_native_code" in options.extras,
        amp_level=str(options.said("amp_level", "O0")),
        limits=Limits(
            cast(float, options.said("exported_seconds", Limits.seconds)),
            cast(float, options.said("exported_memory", Limits.memory)),
        ),
    )
    check_fixed(
        predictor,
        arch=_arch(options),
        num_classes=line.get("num_classes") or None,
        image_size=line.get("image_size"),
        crop_pct=line.get("crop_pct"),
    )
    return predictor


def _exported(options: Options, path: str) -> Predictor:
    predictor = open_asked(options, path)
    _, notes = resolve(options, predictor.metadata.config)
    for text in notes:
        tell(text)
    return predictor


def _arch(options: Options) -> str | None:
    arch = options.line.get("arch")
    return None if arch is None else str(arch)


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
            f"runtime {name} runs on the CPU in float32 or bf16, not on {precision.device.type} in "
            f"{precision.name}: leave runtime out, or set device_target CPU and amp_level O0, bf16 or auto"
        )
    if missing := _missing(name):
        extra = "openvino" if name == "openvino" else "export"
        raise UserError(
            f"runtime {name} needs {missing[0]}, which is not installed; install it with: {install_command(extra)}"
        )


def _missing(name: str) -> list[str]:
    return [package for package in FORMS[name].packages if find_spec(package) is None]


def _converted(own: TorchPredictor, config: Config, name: str, images: Tensor) -> Predictor:
    """The network in another runtime, by a file that was compared with it and is gone when it is loaded."""
    form, precision = FORMS[name], own.precision.name
    with tempfile.TemporaryDirectory(prefix="t2t_vit-") as folder:
        path = Path(folder) / form.file
        evidence = Evidence(images[: min(len(images), 8)])
        limits = Limits.of(config)
        export_model(own, path, arch=config.arch, file_format=form.file_format, evidence=evidence, limits=limits)
        return open_exported(path, amp_level=precision, limits=limits)
