"""`t2t-vit train`: a configuration, and perhaps weights or a stopped run -> checkpoints, logs and curves."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from t2t_vit.assembly import build
from t2t_vit.assembly.batch_size import check_memory, resolved
from t2t_vit.assembly.best import Ending, best_weights, last_weights
from t2t_vit.assembly.callbacks import follow
from t2t_vit.assembly.images import (
    Prepared,
    digests,
    folder_of_images,
    listed_folder_of_images,
    prepare_images,
    run_images,
    write_lists,
)
from t2t_vit.assembly.run import Job, Result, Start, check_same_data, identity_of, nothing_left, record_run, start_of
from t2t_vit.assembly.teacher import guidance_of, loss_note, open_teacher
from t2t_vit.cli.preview import write_preview
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import EvalLoader, TrainLoader
from t2t_vit.errors import OutputError, UserError
from t2t_vit.evaluation.answers import write_answers
from t2t_vit.evaluation.findings import details
from t2t_vit.evaluation.outcomes import collect
from t2t_vit.fast.kernels import check_kernels, for_evaluation, fused_or_plain, packs
from t2t_vit.files import write_json
from t2t_vit.inference.writers import check_output
from t2t_vit.model import T2TViT
from t2t_vit.notes import counted, print_line, silent, tell
from t2t_vit.precision import choose_device, choose_precision, choose_products
from t2t_vit.report.page import write_report
from t2t_vit.report.run_files import ANSWERS, EVALUATION, REPORT, ROOT_KEYS
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.schema import Config
from t2t_vit.training.average import EpochAverage
from t2t_vit.training.checkpoint import Trained, checkpoint_name, metrics_in, recall, restore
from t2t_vit.training.distributed import (
    Meeting,
    Processes,
    StopAgreement,
    connected,
    end_with_launcher,
    from_environment,
    meet,
)
from t2t_vit.training.divergence import StopOnDivergence
from t2t_vit.training.journal import Console, describe_metrics, to_standard_error
from t2t_vit.training.limits import EarlyStopping, TimeLimit
from t2t_vit.training.loop import Validation, train
from t2t_vit.training.optimizer import Schedule, trainable
from t2t_vit.training.retention import BEST, LAST, BestList, Checkpoints, best_lists, best_of
from t2t_vit.training.run import Folders, Run, RunMark, claim, finish, is_finished, remove
from t2t_vit.training.signals import Stop
from t2t_vit.training.state import State
from t2t_vit.training.teacher import Teacher
from t2t_vit.training.trackers import check_installed
from t2t_vit.weights import SavedRun, Weights

FROZEN = {"tokens": "the T2T module", "backbone": "all but the head"}
SKIPPED = "skipped.jsonl"
FEW = 10  # images per class; with fewer, a network hardly learns more than these images
UNEVEN = 4  # ratio of the largest class to the smallest
# Keys that determine the learning rate of a step.
SCHEDULE_KEYS = (
    "lr_scheduler", "base_lr", "min_lr", "warmup_lr", "warmup_length", "lr_adjust", "lr_gamma", "lr_decay_share",
    "lr_decay_shape", "epochs",
)  # fmt: skip


def run(options: Options) -> int:
    """Train, and say where everything is."""
    processes = from_environment()
    if processes.count > 1:
        end_with_launcher()
    if options.print_config:
        print(to_yaml(printed(start_of(options, locks=False))), end="")
        return 0
    if "preview" in options.extras:
        check_output(options.extras["preview"])
        write_preview(start_of(options, locks=False).config, Path(options.extras["preview"]))
        print_line(options.extras["preview"])
        return 0
    meeting = meet(processes)
    result = train_job(start_of(options, meeting), processes, meeting)
    if processes.is_first:
        for line in where(result):
            print_line(line)
    return 0


def printed(start: Start) -> Config:
    """The configuration as --print_config shows it, with the batch size that `auto` comes to here."""
    config = start.config
    if start.batch is None:
        return config
    device = choose_device(config.device_target, config.device_id, note=tell)
    return resolved(config, start.batch, choose_precision(config.amp_level, device, training=True, note=tell), tell)


def where(result: Result) -> list[str]:
    """A line for each thing that a run wrote, and the commands that use it."""
    folders = result.folders
    report = folders.logs / REPORT
    best = [("best checkpoint", result.best)] if result.best else []
    named = [
        *best,
        ("checkpoint", result.checkpoint),
        ("best checkpoints", folders.best),
        ("log and history", folders.logs),
    ]
    lines = [f"{what:<18}{path}" for what, path in [*named, ("report", report)] if path.exists()]
    lines.append(f"{'summary':<18}{folders.summary}  (tensorboard --logdir {quote(str(folders.summary.parent))})")
    file = next(
        (path for path in (folders.best / BEST, folders.checkpoints / LAST, result.checkpoint) if path.exists()), None
    )
    if file is not None:
        images = quote(result.images) if result.images else "IMAGE_OR_FOLDER"
        lines.append(f"{'predict':<18}{_program('infer')} {images} --checkpoint {quote(str(file))}")
        lines.append(f"{'evaluate':<18}{_program('eval')} --pretrained {quote(str(file))}")
    return lines


def _program(command: str) -> str:
    """How another command is called, by the way this one was."""
    script = Path(sys.argv[0])
    sibling = script.with_name(f"{command}.py")
    return f"python {quote(str(sibling))}" if script.name == "train.py" and sibling.exists() else f"t2t-vit {command}"


def train_job(start: Start, processes: Processes, meeting: Meeting | None = None, *, quiet: bool = False) -> Result:
    """Train from `start` to the end, and let go of the run; `quiet` shows nothing of it, but keeps the log.

    Raises:
        UserError: the data, the device or a combination of settings is not as it should be.
    """
    with closing(start):
        if start.over and start.run is not None and start.saved is not None:
            if processes.is_first and not quiet:
                to_standard_error(start.over)
            content, folders = start.saved.content, start.run.folders
            best = best_of(_ranked(start.config, folders, content))
            images = listed_folder_of_images(start.config, folders.logs)
            return Result(start.saved.path, folders, metrics_in(content), best, images)
        return _train_job(start, processes, meeting or meet(processes), quiet=quiet)


def _train_job(start: Start, processes: Processes, meeting: Meeting, *, quiet: bool) -> Result:
    pending: list[str] = []
    train_images, val_images = run_images(start, pending.append)
    config = fit_to_data(start.config, train_images, start.given, pending.append)
    if processes.is_first:
        check_installed(config.tracker)
    first: list[str] = []
    run = start.run or meeting.of_first(lambda: _claimed(start, config, first.append))
    console = Console(quiet=quiet, held=True) if processes.is_first else Console(live=False)
    with closing(run), closing(console):
        note = console.line if processes.is_first else silent
        opening = 1 if start.saved is not None else 0  # the first line says which run continues
        for text in [*start.notes[:opening], *first, *start.notes[opening:], *pending]:
            note(text)
        for text in _processes_note(config, processes, start.given):
            note(text)
        device = choose_device(config.device_target, _device_number(config, processes), note=note)
        check_kernels(config.kernels, device)
        precision = choose_precision(config.amp_level, device, training=True, note=note)
        choose_products(precision, note)
        teacher = open_teacher(config, train_images.classes, precision, note)
        job = Job(config, processes, device, precision, run, console, note)
        with connected(processes, device, meeting):
            if start.batch is not None:
                count = len(train_images)
                config = resolved(
                    config, start.batch, precision, note, processes=processes, images=count, teacher=teacher
                )
                job = replace(job, config=config)
            elif device.type == "cpu":
                check_memory(config, len(train_images) // processes.count, processes)
            return _train(job, start, train_images, val_images, teacher)


def _claimed(start: Start, config: Config, note: Callable[[str], None]) -> Run:
    """Folders for a run that has none yet."""
    roots = [getattr(config, key) for key in ROOT_KEYS]
    if start.replaces is not None:
        remove(start.replaces)
    run = claim(roots, config.run_name, start.mark or RunMark.new(start.name), note)
    if run.folders.name != config.run_name:
        note(f"{config.run_name} is taken by another run: this one is {run.folders.name}, in {run.folders.checkpoints}")
    return run


def _train(
    job: Job, start: Start, train_images: ImageSet, val_images: ImageSet, teacher: Teacher | None = None
) -> Result:
    config, processes = job.config, job.processes
    model = _initial(job, start.weights, train_images.classes)
    trained = build.trained_of(config, model, job.precision)
    prepared = prepare_images(job, train_images, val_images)
    loader = build.train_loader(
        config, prepared.train, config.num_classes, processes, job.device, job.note, prepared.bad_train
    )
    state = _beginning(config, loader)
    files = digests(train_images, val_images) | ({} if teacher is None else {"teacher": teacher.digest})
    identity = identity_of(config, state, loader, train_images, val_images, processes, job.run, files)
    schedule = build.schedule_of(config, state)
    validation = _validation(job, trained, prepared)
    stopping = EarlyStopping(config.patience, config.best_by, job.note)
    time = TimeLimit(config.max_hours, state)
    result = Result(job.folders.checkpoints, job.folders, state.results, images=folder_of_images(val_images))
    ranked: Mapping[str, BestList] = {}
    if start.saved is not None:
        check_same_data(start.saved, identity, job.note)
        restore(start.saved.content, start.saved.path, trained, state)
        recall(start.saved.content, start.saved.path, [stopping, time])
        if stopping.is_over or time.was_over:
            state.end_here()
            state.ended = bool(start.saved.content["progress"]["ended"]) and state.complete
        ranked = _ranked(config, job.folders, start.saved.content) if processes.is_first else {}
        result = replace(result, checkpoint=start.saved.path, metrics=state.results, best=best_of(ranked))
        if state.ended and (start.run is None or is_finished(job.folders, job.run.mark)):
            job.note(nothing_left(job.folders.name, config, state, stopping, time))
            job.console.begin(keep=False)
            return result
        for text in _jump(config, start.saved, schedule, state):
            job.note(text)
    if processes.is_first:
        job.run.keep()
        job.folders.sweep()
        job.console.begin(job.folders.logs / "train.log")
    if state.ended:
        job.note("the run is complete but its report is missing; writing it now")
        return _ended(job, trained, state, ranked, validation, val_images, result)
    job.note(_headline(job, model, len(train_images), len(val_images)))
    job.note(recipe_line(config, model, trained.optimizer, state, identity.data["images_per_update"]))
    if teacher is not None:
        job.note(loss_note(config))
    if text := average_note(config, trained.average, state, state.last_step):
        job.note(f"{text}; there will be no averaged weights")
    if processes.is_first:
        record_run(job, model, state, train_images, val_images)
        write_lists(job.folders.logs, train_images, val_images)
        if start.saved is None:  # rows of a start that is repeated
            (job.folders.logs / SKIPPED).unlink(missing_ok=True)
    guards = _guard(job, loader, state), [stopping, time]
    batches, callbacks = follow(job, trained, state, loader, identity, start, *guards)
    if start.saved is not None:
        start.saved.content.clear()  # frees the memory of the checkpoint
    stop = Stop(StopAgreement() if processes.count > 1 else None, time.is_over)
    planned = state.last_step
    guidance = guidance_of(config, teacher, job.device)
    train(
        build.step_of(config, trained, train_images, job.precision, processes, job.note, guidance),
        batches,
        schedule,
        state,
        validation=validation,
        average=trained.average,
        callbacks=callbacks,
        stop=stop,
        seed=config.seed,
        rank=processes.rank,
    )
    if stop.is_time_up and state.step < planned:
        last = quote(str(job.folders.checkpoints / LAST))
        job.note(f"{time.reason}: the run ends here; --resume {last} with a larger --max_hours continues it")
    ranked = next((one.best for one in callbacks if isinstance(one, Checkpoints)), {})
    result = replace(result, checkpoint=job.folders.checkpoints / checkpoint_name(config.arch, state))
    return _ended(job, trained, state, ranked, validation, val_images, result)


def _ended(
    job: Job,
    trained: Trained,
    state: State,
    ranked: Mapping[str, BestList],
    validation: Validation,
    images: ImageSet,
    result: Result,
) -> Result:
    """Report the run, which has made its last step: with `patience` its best weights, else the last ones."""
    config = job.config
    ending = last_weights(state, config.best_by, ranked)
    if config.patience:
        ending = best_weights(trained, state, config.best_by, ranked, job.processes, job.note)
    job.note(_result_line(job, ending))
    if text := average_note(config, trained.average, state, state.step):
        job.note(f"{text}; there are no averaged weights")
    report_run(job, ending, validation, images)
    return replace(result, metrics=ending.state.results, best=ending.best)


def _ranked(config: Config, folders: Folders, content: Mapping[str, Any]) -> dict[str, BestList]:
    """The best checkpoints as the checkpoint `content` knows them, as far as they are there."""
    ranked = best_lists(folders.best, config.best_ckpt_num, config.best_by, {}, with_ema=content["ema"] is not None)
    for name, each in ranked.items():
        each.know(content["best"].get(name, ()))
    return ranked


def _jump(config: Config, saved: SavedRun, schedule: Schedule, state: State) -> list[str]:
    """What to say where another schedule makes the learning rate of the next step another than the last one's."""
    held = saved.content["config"]
    if state.ended or all(getattr(config, key) == held.get(key) for key in SCHEDULE_KEYS):
        return []
    last, next_one = state.lr, schedule(state.step)
    if abs(next_one - last) <= 0.05 * max(next_one, last):
        return []
    return [
        f"the learning rate changes from {last:.3g} at step {state.step} to {next_one:.3g} at the next step, because "
        f"the schedule has changed; for a new schedule from these weights, begin a new run with --pretrained "
        f"{quote(str(saved.path))}"
    ]


def _result_line(job: Job, ending: Ending) -> str:
    """What the run came to, and in which precision that was measured."""
    shown = describe_metrics(ending.metrics, job.config.best_by) if ending.state.results else "nothing was evaluated"
    return (
        f"result: {ending.weights} weights of epoch {ending.state.epoch}, step {ending.state.step}: {shown} "
        f"(measured in {job.precision.name} on {job.device.type})"
    )


def _beginning(config: Config, loader: TrainLoader) -> State:
    return State.begin(
        len(loader),
        accumulation=config.accumulation_step,
        epochs=config.epochs + config.cooldown_epochs,
        start_epoch=config.start_epoch,
        max_steps=config.max_steps,
    )


def _guard(job: Job, loader: TrainLoader, state: State) -> StopOnDivergence:
    config = job.config
    advice = [] if config.use_clip_grad_norm else ["set --use_clip_grad_norm True"]
    if config.amp_level in ("O1", "O2"):
        advice.append("compute in --amp_level bf16")
    return StopOnDivergence(
        config.skipped_steps_limit,
        advice=advice,
        names=lambda step: _names(loader, state, config.accumulation_step, step),
        log=job.folders.logs / SKIPPED if job.processes.is_first else None,
        note=job.note,
    )


def _names(loader: TrainLoader, state: State, accumulation: int, step: int) -> list[str]:
    """The images of the update that made `step`, of all processes."""
    epoch, done = divmod(step - 1, state.updates_per_epoch)
    return loader.names(epoch, done * accumulation, accumulation)


def _initial(job: Job, weights: Weights | None, classes: Sequence[str]) -> T2TViT:
    """The network on its device, with the weights to start from."""
    model = build.network(job.config, job.config.num_classes)
    if weights is not None:
        for text in build.start_from(model, weights, classes):
            job.note(text)
    made_of = fused_or_plain(model, job.config.kernels, job.device)
    if packs(job.config.kernels, job.precision):
        made_of += "; each evaluation uses a new packed copy"
    job.note(f"network: {made_of}")
    job.precision.prepare(model)
    return model


def _validation(job: Job, trained: Trained, images: Prepared) -> Validation:
    config = job.config
    preprocessing = build.preprocessing_of(config)
    # The training loader has already reported how many workers there can be.
    loader = build.eval_loader(
        config, images.val, preprocessing, job.processes, job.device, silent, images.bad_val, images.val_kept
    )
    average = trained.ema or trained.average
    weights = {"raw": trained.model} | ({} if average is None else {"ema": average.module})
    return Validation(
        loader,
        weights,
        config.eval_every_epochs,
        job.precision.autocast,
        job.processes.sum,
        partial(for_evaluation, kernels=config.kernels, precision=job.precision),
        config.num_classes,
        trained.average,
    )


def _device_number(config: Config, processes: Processes) -> int:
    return processes.local if processes.count > 1 else config.device_id


def _processes_note(config: Config, processes: Processes, given: Collection[str]) -> list[str]:
    """What to say where `device_num` and the launcher differ.

    Raises:
        UserError: several processes are asked for, but this one was started alone.
    """
    if processes.count == config.device_num:
        return []
    if processes.count == 1:
        raise UserError(
            f"device_num {config.device_num} needs that many processes; start them with "
            f"scripts/run_distribute_train_gpu.sh CONFIG --num_devices {config.device_num}, or with torchrun"
        )
    return (
        [f"device_num {config.device_num}: torchrun started {processes.count}, and that number is used"]
        if "device_num" in given
        else []
    )


def _headline(job: Job, model: T2TViT, train_images: int, val_images: int) -> str:
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = job.config
    parts = [
        f"{config.arch} {model.image_size[0]}x{model.image_size[1]}",
        f"{parameters:,} trainable parameters",
        f"{len(model.pos_embed[0]) - 1} tokens",
        f"{config.num_classes} classes",
        f"{train_images:,} training and {val_images:,} validation images",
        f"{job.processes.count} x {job.device.type}",
        f"precision {job.precision.name}",
    ]
    return ", ".join(parts)


def recipe_line(config: Config, model: nn.Module, optimizer: Optimizer, state: State, images: int) -> str:
    """Optimizer, learning rates, length, and what is frozen.

    Args:
        images: how many make one update, over all processes and accumulated batches.
    """
    lowest = min(group.get("lr_scale", 1.0) for group in optimizer.param_groups)
    rates = f"learning rate up to {config.base_lr:.3g}"
    if lowest < 1:
        rates += f" (layer_decay {config.layer_decay:g}: {config.base_lr * lowest:.2g} in the first trained layer)"
    steps = state.last_step - state.step
    parts = [
        config.optimizer,
        rates,
        f"weight_decay {config.weight_decay:g}",
        f"{counted(steps, 'step')} of {counted(images, 'image')}, {state.updates_per_epoch:,} per epoch",
    ]
    if config.freeze:
        learning, total = sum(p.numel() for p in trainable(optimizer)), sum(p.numel() for p in model.parameters())
        parts.append(f"frozen: {FROZEN.get(config.freeze, f'the T2T module and blocks 1 to {config.freeze}')}")
        parts.append(f"{learning:,} of {total:,} parameters are trained")
    return ", ".join(parts)


def average_note(config: Config, average: EpochAverage | None, state: State, end: int) -> str:
    """What to say of an average that begins after the run ends, at step `end`; empty where there is one, or none asked.

    `max_steps`, `patience` and `max_hours` end a run before its epochs are over.
    """
    if average is None or average.count or end >= average.first_epoch * state.updates_per_epoch:
        return ""
    return (
        f"model_average {config.model_average}: averaging begins at the end of epoch {average.first_epoch} of "
        f"{state.epochs}, but the run ends before that, at step {end}"
    )


def fit_to_data(config: Config, images: ImageSet, given: Collection[str], note: Callable[[str], None]) -> Config:
    """`config` with the class count of the training images, and without label smoothing where it has no sense.

    Args:
        given: keys that stood on the command line, which stay as they are.
        note: gets what was changed, and what is unusual about the images.
    """
    classes = len(images.classes)
    config = replace(config, num_classes=classes)
    for text in _remarks(images, config.class_balance):
        note(text)
    if classes < 3 and config.label_smoothing > 0 and "label_smoothing" not in given:
        # With two classes, smoothing only lowers certainty and says nothing about which classes are similar.
        note(
            f"label_smoothing {config.label_smoothing:g} is off, because there are {classes} classes; "
            "to keep it, give it on the command line"
        )
        config = replace(config, label_smoothing=0.0)
    return config


def _remarks(images: ImageSet, class_balance: str) -> list[str]:
    counts = np.bincount(images.targets, minlength=len(images.classes))
    fewest, most = int(counts.argmin()), int(counts.argmax())
    low, high = int(counts[fewest]), int(counts[most])
    if low == high:
        sentences = [f"{counted(low, 'training image')} per class"]
    else:
        sentences = [
            f"training images per class: {low:,} ({images.classes[fewest]}) to {high:,} ({images.classes[most]})"
        ]
    if high >= UNEVEN * max(1, low) and class_balance == "none":
        sentences[0] += "; rare classes may be recognised less often: --class_balance weights (or sampling) helps"
    few = int((counts < FEW).sum())
    if few:
        sentences.append(
            f"classes with fewer than {FEW} training images: {few} of {len(counts)}; expect poor predictions for them, "
            "and a rough measure of their accuracy"
        )
    return sentences


def report_run(job: Job, ending: Ending, validation: Validation, images: ImageSet) -> None:
    """Evaluate the better weights once more in detail, and write what was found and report.html into the run's logs.

    With that the run is finished. All processes take part; the first one writes. A disk that is full then costs the
    report, not the run.
    """
    state, chosen = ending.state, ending.weights
    batches = validation.batches
    assert isinstance(batches, EvalLoader)
    outcomes = collect(
        validation.form(validation.weights[chosen]),
        batches,
        batches.numbers,
        len(images),
        unreadable=batches.unreadable,
        autocast=validation.autocast,
        reduce=validation.reduce,
    )
    if not job.processes.is_first:
        return
    try:
        scores = {name: metrics.numbers() for name, metrics in state.results.items()}
        found = {"step": state.step, "epoch": state.epoch, "weights": chosen, "scores": scores}
        write_answers(job.folders.logs / ANSWERS, outcomes, images)
        write_json(job.folders.logs / EVALUATION, found | details(outcomes, images), indent=None)
        write_report(job.folders.logs, job.folders.logs / REPORT)
    except UserError as error:
        job.note(f"no report: {error}")
    try:
        finish(job.run)
    except OutputError as error:
        job.note(f"--resume auto writes the report again: {error}")
