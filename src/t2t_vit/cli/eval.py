"""`t2t-vit eval`: a checkpoint on the validation images, counted exactly."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from t2t_vit.cli import assembly
from t2t_vit.cli.config_file import to_yaml
from t2t_vit.cli.console import tell
from t2t_vit.cli.options import Options
from t2t_vit.cli.resolve import resolve
from t2t_vit.config import Config
from t2t_vit.data.images import check_same_classes
from t2t_vit.evaluation.metrics import Metrics, evaluate
from t2t_vit.files import atomic_write
from t2t_vit.inference.rebuild import rebuild
from t2t_vit.inference.writers import check_output
from t2t_vit.precision import choose_device, choose_precision
from t2t_vit.training.distributed import Processes, connected, from_environment, leave
from t2t_vit.weights import Weights, checkpoint_config, read_weights


def run(options: Options) -> int:
    """Evaluate, and print the results last."""
    weights = read_weights(options.required_checkpoint())
    config, notes = resolve(options, checkpoint_config(weights))
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    processes = from_environment()
    note = tell if processes.is_first else _silent
    output = options.extras.get("output")
    if output is not None:
        check_output(output)
    metrics = evaluate_weights(weights, config, processes, note, notes)
    if processes.is_first:
        results = as_results(metrics)
        if output is not None:
            with atomic_write(Path(output), "w") as file:
                json.dump(results, file, indent=1)
                file.write("\n")
        print(f"eval results: {results}")
    if processes.count > 1:
        leave(0)
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
    """Exact metrics of `weights` over the validation images of `config`, each counted once; `notes` are told first."""
    told = list(notes)  # only when nothing can be refused any more: a mistake is one sentence
    device_id = processes.local if processes.count > 1 else config.device_id
    device = choose_device(config.device_target, device_id, note=told.append)
    precision = choose_precision(config.amp_level, device, training=False, note=told.append)
    rebuilt = rebuild(weights, config.to_dict(), told.append)
    images = assembly.validation_images(config)
    if rebuilt.classes is not None:
        check_same_classes(images.classes, rebuilt.classes, "the validation images", str(weights.path))
    for text in told:
        note(text)
    with connected(processes, device):
        loader = assembly.eval_loader(config, images, rebuilt.preprocessing, processes, device, note)
        model = precision.prepare(rebuilt.model)
        note(f"{weights.path}: {weights.chosen} weights, {len(images):,} images, {device.type}, {precision.name}")
        return evaluate(model, loader, autocast=precision.autocast, reduce=processes.sum)


def _silent(_: str) -> None:
    """Processes other than the first say nothing."""
