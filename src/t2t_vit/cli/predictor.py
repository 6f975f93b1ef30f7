"""The options of a command that predicts -> its predictor."""

from t2t_vit.cli.console import tell
from t2t_vit.cli.runtimes import Work, in_runtime
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.load import check_fixed, is_exported, open_exported
from t2t_vit.inference.plan import Workload, plan_for
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.rebuild import rebuild
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.ops.split_norm_linear import check_kernels
from t2t_vit.precision import choose_device, choose_precision, choose_products
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config
from t2t_vit.training.compilation import why_not
from t2t_vit.weights import checkpoint_config, read_weights


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
    """The network of a checkpoint where and as the options say; says what it is."""
    return _opened(options, path, None)[1]


def _opened(options: Options, path: str, work: Work | None) -> tuple[Config, TorchPredictor]:
    weights = read_weights(path)
    config, notes = resolve(options, checkpoint_config(weights, _arch(options)))
    device = choose_device(config.device_target, config.device_id, required=False, note=notes.append)
    precision = choose_precision(config.amp_level, device, training=False, note=notes.append)
    choose_products(precision, notes.append)
    check_kernels(config.kernels, device, predicts=True)
    rebuilt = rebuild(weights, config.to_dict(), notes.append, config.kernels)
    for text in notes:
        tell(text)
    # Counting costs a look at every name, which only an accelerator's engine and a choice of runtimes are worth.
    known = Workload(work.count(), work.batch) if work is not None and device.type == "cuda" else Workload()
    plan = plan_for(device.type, known, lambda: why_not(device))
    engine = f", {plan}" if device.type == "cuda" else ""
    tell(f"{path}: {config.arch}, {weights.chosen} weights, {device.type}, {precision.name}{engine}")
    return config, TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes, precision, plan)


def open_asked(options: Options, path: str) -> ExportedPredictor:
    """An exported file, which says everything itself; what the line says besides has to agree.

    Raises:
        UserError: it does not, or the file cannot be run.
    """
    line = options.line
    predictor = open_exported(
        path,
        allow_native_code="allow_native_code" in options.extras,
        amp_level=str(options.said("amp_level", "O0")),
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
