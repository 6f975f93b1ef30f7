"""`t2t-vit infer`: images and a checkpoint or an exported file -> a class for each image."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from t2t_vit.cli.config_file import to_yaml
from t2t_vit.cli.console import tell
from t2t_vit.cli.options import Options
from t2t_vit.cli.resolve import resolve
from t2t_vit.inference.load import load
from t2t_vit.inference.predictor import BATCH_SIZE, Prediction, Predictor
from t2t_vit.inference.rebuild import rebuild
from t2t_vit.inference.run import predict_files
from t2t_vit.inference.sources import find_images
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.inference.writers import check_output, write_predictions
from t2t_vit.precision import choose_device, choose_precision
from t2t_vit.weights import checkpoint_config, file_kind, read_weights

DEFAULT_OUTPUT = "predictions.json"


def run(options: Options) -> int:
    """Predict; 1 where some images were bad."""
    path = options.required_checkpoint()
    if options.print_config:
        config, _ = resolve(options, None if file_kind(path) == "onnx" else checkpoint_config(read_weights(path)))
        print(to_yaml(config), end="")
        return 0
    output = options.extras.get("output", DEFAULT_OUTPUT)
    check_output(output)
    files = find_images(options.data or "")
    exported = file_kind(path) == "onnx" or Path(path).suffix == ".onnx"
    predictor = _onnx_predictor(options, path) if exported else torch_predictor(options, path)
    found = predict(predictor, files, output, cast(int, options.said("batch_size", BATCH_SIZE)))
    return 0 if len(found) == len(files) else 1


def predict(
    predictor: Predictor, files: Sequence[str], output: str, batch_size: int = BATCH_SIZE
) -> dict[str, Prediction]:
    """Print a line for each image, name the bad ones, write `output`; what was found, by file."""
    found: dict[str, Prediction] = {}
    for file, answer in predict_files(predictor, files, batch_size=batch_size):
        if isinstance(answer, Prediction):
            found[file] = answer
            print(f"{file} (class: {answer.index})" + (f" {answer.name}" if answer.name else ""))
        else:
            tell(f"{file}: {answer}")
    write_predictions(output, {file: answer.index for file, answer in found.items()})
    bad = len(files) - len(found)
    tell(
        f"{len(found)} predictions in {output}"
        + (f"; {bad} {'image' if bad == 1 else 'images'} could not be read" if bad else "")
    )
    return found


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


def _onnx_predictor(options: Options, path: str) -> Predictor:
    """The file says everything itself; what the line says besides has to agree."""
    config, notes = resolve(options)
    for text in notes:
        tell(text)
    line = options.line
    return load(
        path,
        arch=_arch(options),
        num_classes=config.num_classes or None,
        image_size=config.image_size if "image_size" in line else None,
        crop_pct=config.crop_pct if "crop_pct" in line else None,
    )


def _arch(options: Options) -> str | None:
    arch = options.line.get("arch")
    return None if arch is None else str(arch)
