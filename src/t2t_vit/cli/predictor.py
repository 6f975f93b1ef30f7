"""The options of a command that predicts -> its predictor."""

from t2t_vit.cli.console import tell
from t2t_vit.cli.options import Options
from t2t_vit.cli.resolve import resolve
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.load import check_fixed, is_exported, open_exported
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.rebuild import rebuild
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_device, choose_precision
from t2t_vit.weights import checkpoint_config, read_weights


def open_predictor(options: Options) -> Predictor:
    """The checkpoint or exported file that the options name, where and as they say; says what it is.

    Raises:
        UserError: it cannot be read, or contradicts the options.
    """
    path = options.required_checkpoint()
    return _exported(options, path) if is_exported(path) else torch_predictor(options, path)


def torch_predictor(options: Options, path: str) -> TorchPredictor:
    """The network of a checkpoint where and as the options say; says what it is."""
    weights = read_weights(path)
    config, notes = resolve(options, checkpoint_config(weights, _arch(options)))
    device = choose_device(config.device_target, config.device_id, required=False, note=notes.append)
    precision = choose_precision(config.amp_level, device, training=False, note=notes.append)
    rebuilt = rebuild(weights, config.to_dict(), notes.append)
    for text in notes:
        tell(text)
    tell(f"{path}: {config.arch}, {weights.chosen} weights, {device.type}, {precision.name}")
    return TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes, precision)


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
