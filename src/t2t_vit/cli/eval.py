"""`t2t-vit eval`: a checkpoint or an exported file on the validation images, counted exactly."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from t2t_vit.cli import build
from t2t_vit.cli.console import silent, tell
from t2t_vit.cli.predictors import open_asked
from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics, evaluate
from t2t_vit.fast.kernels import check_kernels, prepared
from t2t_vit.files import atomic_write
from t2t_vit.inference.exported import ExportedPredictor
from t2t_vit.inference.load import is_exported, rebuild
from t2t_vit.inference.writers import check_output
from t2t_vit.precision import choose_device, choose_precision, choose_products
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config
from t2t_vit.training.distributed import Processes, connected, from_environment
from t2t_vit.weights import Weights, checkpoint_config, read_weights


def run(options: Options) -> int:
    """Evaluate, and print the results last."""
    path = options.required_checkpoint()
    opened = open_asked(options, path) if is_exported(path) else read_weights(path)
    config, notes = resolve(
        options, checkpoint_config(opened) if isinstance(opened, Weights) else opened.metadata.config
    )
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    processes = from_environment()
    note = tell if processes.is_first else silent
    output = options.extras.get("output")
    if output is not None:
        check_output(output)
    if isinstance(opened, Weights):
        metrics = evaluate_weights(opened, config, processes, note, notes)
    else:
        metrics = evaluate_exported(opened, config, processes, note, notes)
    if processes.is_first:
        results = as_results(metrics)
        if output is not None:
            with atomic_write(Path(output), "w") as file:
                json.dump(results, file, indent=1)
                file.write("\n")
        print(f"eval results: {results}")
    return 0


def as_results(metrics: Metrics) -> dict[str, float]:
    """Loss and accuracies under the names of the model-zoo page, unrounded."""
    return {"Loss": metrics.loss, "Top1-Acc": metrics.top1, "Top5-Acc": metrics.top5}


def evaluate_weights(
    weights: Weights,
    config: Config,
    processes: Processes,
    note: Callable[[str], None],
    notes: Sequence[str] = (),
) -> Metrics:
    """Exact metrics of `weights` over the validation images of `config`, each counted once, after the `notes`."""
    pending = list(notes)  # printed only when nothing can be refused any more: a mistake is one sentence
    device_id = processes.local if processes.count > 1 else config.device_id
    device = choose_device(config.device_target, device_id, note=pending.append)
    precision = choose_precision(config.amp_level, device, training=False, note=pending.append)
    choose_products(precision, pending.append)
    check_kernels(config.kernels, device)
    rebuilt = rebuild(weights, config.to_dict(), pending.append)
    if set(build.HEAD) & set(rebuilt.report.new):
        raise UserError(
            f"{weights.path}: holds no head for {config.num_classes} classes, and a new one knows nothing; fine-tune "
            "it before it is evaluated"
        )
    images = build.validation_images(config, pending.append, rebuilt.classes, str(weights.path))
    for text in pending:
        note(text)
    with connected(processes, device):
        loader = build.eval_loader(config, images, rebuilt.preprocessing, processes, device, note)
        model, made_of = prepared(rebuilt.model, config.kernels, precision)
        note(f"{weights.path}: {weights.chosen} weights, {len(images):,} images, {device.type}, {precision.name}")
        note(f"network: {made_of}")
        metrics = evaluate(model, loader, autocast=precision.autocast, reduce=processes.sum)
        tell_unreadable(metrics, len(images), note)
        return metrics


def evaluate_exported(
    predictor: ExportedPredictor,
    config: Config,
    processes: Processes,
    note: Callable[[str], None],
    notes: Sequence[str] = (),
) -> Metrics:
    """As `evaluate_weights`, of a file that `export` wrote, in its own runtime."""
    pending, cpu = list(notes), torch.device("cpu")
    images = build.validation_images(config, pending.append, predictor.classes, str(predictor.path))
    for text in pending:
        note(text)
    with connected(processes, cpu):
        loader = build.eval_loader(config, images, predictor.preprocessing, processes, cpu, note)
        kind = type(predictor).__name__.removesuffix("Predictor")
        note(f"{predictor.path}: exported, {len(images):,} images, {kind}, {predictor.metadata.precision}")
        metrics = evaluate(_AsModule(predictor), loader, reduce=processes.sum)
        tell_unreadable(metrics, len(images), note)
        return metrics


def tell_unreadable(metrics: Metrics, images: int, note: Callable[[str], None]) -> None:
    """Say how many of the images could not be read, each of which was named before by the process that met it."""
    if metrics.count < images:
        note(f"{images - metrics.count:,} of {images:,} images could not be read and are not counted")


class _AsModule(nn.Module):
    """An exported file as the evaluation sees networks: normalised images (B, C, H, W) -> logits (B, K)."""

    def __init__(self, predictor: ExportedPredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor.logits_of_normalised(images)
