"""`t2t-vit eval`: a checkpoint or an exported file on the validation images, counted exactly."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from t2t_vit.assembly import build
from t2t_vit.cli.predictors import open_asked
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import EvalLoader
from t2t_vit.errors import UserError
from t2t_vit.evaluation.answers import write_answers
from t2t_vit.evaluation.findings import details
from t2t_vit.evaluation.metrics import Metrics, counting_device, evaluate
from t2t_vit.evaluation.outcomes import Outcomes, OutcomeTable
from t2t_vit.fast.kernels import check_kernels, prepared
from t2t_vit.files import write_json
from t2t_vit.inference.exported import ExportedPredictor
from t2t_vit.inference.load import is_exported, rebuild
from t2t_vit.inference.writers import check_apart, check_output
from t2t_vit.notes import counted, silent, tell
from t2t_vit.precision import AMP_LEVELS, Precision, choose_device, choose_precision, choose_products
from t2t_vit.report.page import write_evaluation_report
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config
from t2t_vit.training.distributed import Processes, connected, from_environment
from t2t_vit.weights import Weights, checkpoint_config, read_weights
from t2t_vit.weights.description import HEAD


@dataclass(frozen=True)
class Evaluated:
    """What one evaluation found.

    measured   how: the precision and what computed it
    weights    raw or ema of a checkpoint, else exported
    images     what was measured on
    outcomes   the answer to each image, in the first process; None unless they were asked for
    """

    metrics: Metrics
    measured: str
    weights: str
    images: ImageSet
    outcomes: Outcomes | None = None

    @property
    def unreadable(self) -> int:
        """How many images could not be read, and are not counted."""
        return len(self.images) - self.metrics.count


def run(options: Options) -> int:
    """Evaluate, and print the results last; 1 where images could not be read, so that they are of a part."""
    if options.print_config:
        config, _, _ = _opened(options)
        print(to_yaml(config), end="")
        return 0
    processes = from_environment()
    note = tell if processes.is_first else silent
    output, report, answers = (options.extras.get(name) for name in ("output", "report", "answers"))
    for file in (output, report, answers):
        if file is not None:
            check_output(file)
    written = [(f"--{name}", file) for name, file in (("report", report), ("answers", answers)) if file is not None]
    for option, file in written:
        if output is not None:
            check_apart(file, output, f"{option} {file}")
    if report is not None and answers is not None:
        check_apart(answers, report, f"--answers {answers}", "the report")
    found = evaluate_job(options, processes, note, wants_outcomes=report is not None or answers is not None)
    if processes.is_first:
        results = as_results(found.metrics)
        if output is not None:
            write_json(Path(output), results)
        if report is not None:
            write_report_of(found, Path(report), options.checkpoint)
            note(f"report: {report}")
        if answers is not None:
            assert found.outcomes is not None
            write_answers(Path(answers), found.outcomes, found.images)
            note(f"answers: {answers}")
        print(rounded(found))
        print(f"eval results: {results}")
    # Of several processes only the first one writes; another's exit code would end it before.
    return 1 if found.unreadable and processes.is_first else 0


def evaluate_job(
    options: Options, processes: Processes, note: Callable[[str], None], *, wants_outcomes: bool
) -> Evaluated:
    """Evaluate what the options name, a checkpoint or an exported file."""
    config, notes, opened = _opened(options)
    if isinstance(opened, Weights):
        return evaluate_weights(opened, config, processes, note, notes, wants_outcomes=wants_outcomes)
    return evaluate_exported(opened, config, processes, note, notes, wants_outcomes=wants_outcomes)


def _opened(options: Options) -> tuple[Config, list[str], Weights | ExportedPredictor]:
    path = options.required_checkpoint()
    opened = open_asked(options, path) if is_exported(path) else read_weights(path)
    held = checkpoint_config(opened) if isinstance(opened, Weights) else opened.metadata.config
    return *resolve(options, held), opened


def as_results(metrics: Metrics) -> dict[str, float]:
    """Loss and accuracies under the names of the model-zoo page, unrounded."""
    return {"Loss": metrics.loss, "Top1-Acc": metrics.top1, "Top5-Acc": metrics.top5}


def rounded(found: Evaluated) -> str:
    """The results for people: rounded, with the classes' means and how they were measured."""
    metrics, unreadable = found.metrics, found.unreadable
    without = f" ({unreadable:,} more could not be read)" if unreadable else ""
    return (
        f"loss {metrics.loss:.4f}, top-1 {metrics.top1:.2%}, top-5 {metrics.top5:.2%}, balanced accuracy "
        f"{metrics.balanced_accuracy:.2%}, macro F1 {metrics.macro_f1:.2%} "
        f"of {counted(metrics.count, 'image')}{without}, measured in {found.measured}"
    )


def write_report_of(found: Evaluated, output: Path, path: str) -> None:
    """The report of an evaluation whose outcomes were asked for; `path` is what was evaluated.

    Raises:
        UserError: it cannot be written.
    """
    assert found.outcomes is not None
    shown = {"measured": found.measured, "weights": found.weights} | details(found.outcomes, found.images)
    write_evaluation_report(output, f"{Path(path).name}: evaluation", shown)


def evaluate_weights(
    weights: Weights,
    config: Config,
    processes: Processes,
    note: Callable[[str], None],
    notes: Sequence[str] = (),
    *,
    wants_outcomes: bool = False,
) -> Evaluated:
    """Exact metrics of `weights` over the validation images of `config`, each counted once, after the `notes`."""
    pending = list(notes)  # printed only after all checks, so that a mistake is one sentence
    device_id = processes.local if processes.count > 1 else config.device_id
    device = choose_device(config.device_target, device_id, note=pending.append)
    precision = choose_precision(config.amp_level, device, training=False, note=pending.append)
    choose_products(precision, pending.append)
    check_kernels(config.kernels, device)
    rebuilt = rebuild(weights, config.to_dict(), pending.append)
    if set(HEAD) & set(rebuilt.report.new):
        raise UserError(
            f"{weights.path}: has no head for {config.num_classes} classes, and a new head is untrained; fine-tune "
            "the checkpoint before you evaluate it"
        )
    images = build.validation_images(config, pending.append, rebuilt.classes, str(weights.path))
    pending += _other_precision(weights, precision)
    for text in pending:
        note(text)
    with connected(processes, device):
        loader = build.eval_loader(config, images, rebuilt.preprocessing, processes, device, note)
        model, made_of = prepared(rebuilt.model, config.kernels, precision)
        count = counted(len(images), "image")
        note(f"{weights.path}: {weights.chosen} weights, {count}, {device.type}, {precision.name}")
        note(f"network: {made_of}")
        measured = f"{precision.name} on {device.type}"
        found = _measured(model, loader, images, processes, precision.autocast, wants_outcomes)
        tell_unreadable(found[0], len(images), note)
    return Evaluated(found[0], measured, weights.chosen, images, found[1])


def evaluate_exported(
    predictor: ExportedPredictor,
    config: Config,
    processes: Processes,
    note: Callable[[str], None],
    notes: Sequence[str] = (),
    *,
    wants_outcomes: bool = False,
) -> Evaluated:
    """As `evaluate_weights`, of a file that `export` wrote, in its own runtime."""
    pending, cpu = list(notes), torch.device("cpu")
    images = build.validation_images(config, pending.append, predictor.classes, str(predictor.path))
    for text in pending:
        note(text)
    with connected(processes, cpu):
        loader = build.eval_loader(config, images, predictor.preprocessing, processes, cpu, note)
        kind = type(predictor).__name__.removesuffix("Predictor")
        note(f"{predictor.path}: exported, {counted(len(images), 'image')}, {kind}, {predictor.metadata.precision}")
        measured = f"{predictor.metadata.precision} by {kind}"
        module = _AsModule(predictor)
        found = _measured(module, loader, images, processes, nullcontext, wants_outcomes)
        tell_unreadable(found[0], len(images), note)
        if unanswered := int(processes.sum(module.unanswered)):
            note(f"{predictor.path}: answers {unanswered:,} images with no finite number; they count as wrong")
    return Evaluated(found[0], measured, "exported", images, found[1])


def tell_unreadable(metrics: Metrics, images: int, note: Callable[[str], None]) -> None:
    """Say how many of the images could not be read, each of which was named before by the process that met it."""
    if metrics.count < images:
        bad = images - metrics.count
        note(f"{bad:,} of {images:,} images could not be read and {'is' if bad == 1 else 'are'} not counted")


def _measured(
    model: nn.Module,
    loader: EvalLoader,
    images: ImageSet,
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[object]],
    wants_outcomes: bool,
) -> tuple[Metrics, Outcomes | None]:
    """One pass over the images, which gives the metrics and, if they are asked for, the answers one by one."""
    table = OutcomeTable(loader.numbers, len(images), counting_device(model)) if wants_outcomes else None
    metrics = evaluate(
        model,
        loader,
        autocast=autocast,
        reduce=processes.sum,
        classes=len(images.classes),
        observe=None if table is None else table.add,
    )
    return metrics, None if table is None else table.outcomes(processes.sum, loader.unreadable)


def _other_precision(weights: Weights, precision: Precision) -> list[str]:
    """That the run of the checkpoint measured its figures in another precision, where it did."""
    level = (weights.config or {}).get("amp_level")
    if level not in AMP_LEVELS or level == "O3":
        return []
    of_run = choose_precision(level, precision.device, training=True).name
    if of_run == precision.name:
        return []
    auto = " (amp_level auto)" if level == "auto" else ""
    return [
        f"the run measured this checkpoint in {of_run}{auto}, this evaluation uses {precision.name}: the figures may "
        f"differ in the last digits; for the precision of the run, add --amp_level {of_run}"
    ]


class _AsModule(nn.Module):
    """An exported file as the evaluation sees networks: normalised images (B, C, H, W) -> logits (B, K)."""

    def __init__(self, predictor: ExportedPredictor) -> None:
        super().__init__()
        self.predictor = predictor
        self.unanswered = torch.zeros(1, dtype=torch.float64)  # images without a finite answer

    def forward(self, images: Tensor) -> Tensor:
        logits = self.predictor.logits_of_normalised(images)
        self.unanswered += (~logits.isfinite()).any(1).sum()
        return logits
