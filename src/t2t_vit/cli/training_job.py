"""One training run: a configuration, and perhaps weights or a stopped run -> checkpoints, logs and curves."""

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace

from t2t_vit.cli import assembly
from t2t_vit.cli.continuing import Start
from t2t_vit.cli.final_evaluation import report_run
from t2t_vit.cli.fit_to_data import fit_to_data
from t2t_vit.cli.followers import follow
from t2t_vit.cli.job import Folders, Job, Result
from t2t_vit.cli.keeping import keep_images
from t2t_vit.cli.recipe import recipe_line
from t2t_vit.cli.run_record import record_run
from t2t_vit.cli.same_run import agree, check_same_data, identity_of, nothing_left
from t2t_vit.cli.starting_weights import start_from
from t2t_vit.cli.step import step_of, trained_of
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import TrainLoader
from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT
from t2t_vit.ops.split_norm_linear import check_kernels
from t2t_vit.precision import choose_device, choose_precision, choose_products
from t2t_vit.settings.schema import Config
from t2t_vit.training.agreement import Agreement
from t2t_vit.training.checkpoint import Trained, checkpoint_name
from t2t_vit.training.console import Console
from t2t_vit.training.distributed import Processes, connected
from t2t_vit.training.divergence import StopOnDivergence
from t2t_vit.training.loop import Validation, train
from t2t_vit.training.resume import restore
from t2t_vit.training.signals import Stop
from t2t_vit.training.state import State
from t2t_vit.training.tracker import check_installed
from t2t_vit.weights import Weights


def train_job(start: Start, processes: Processes) -> Result:
    """Train from `start` to the end.

    Raises:
        UserError: the data, the device or a combination of settings is not as it should be.
    """
    told: list[str] = []
    train_images, val_images = assembly.training_images(start.config, told.append)
    config = fit_to_data(start.config, train_images, start.given, told.append)
    folders = Folders.of(config)
    if processes.is_first:
        folders.check()
        check_installed(config.tracker)
    log = folders.logs / "train.log"
    with closing(Console(log, held=True) if processes.is_first else Console(live=False)) as console:
        note = console.line if processes.is_first else _silent
        for text in [*start.notes, *told, *_processes_note(config, processes, start.given)]:
            note(text)
        device = choose_device(config.device_target, _device_number(config, processes), note=note)
        check_kernels(config.kernels, device)
        precision = choose_precision(config.amp_level, device, training=True, note=note)
        choose_products(precision, note)
        job = Job(config, processes, device, precision, folders, console, note)
        with connected(processes, device):
            return _train(job, start, train_images, val_images)


def _train(job: Job, start: Start, train_images: ImageSet, val_images: ImageSet) -> Result:
    config, processes = job.config, job.processes
    model = _initial(job, start.weights, train_images.classes)
    trained = trained_of(config, model, job.precision)
    train_read, val_read = keep_images(job, train_images, val_images)
    loader = assembly.train_loader(config, train_read, config.num_classes, processes, job.device, job.note)
    state = _beginning(config, loader)
    identity = identity_of(config, state, loader, train_images, val_images, processes)
    agree(start.saved, processes, job.device)
    if start.saved is not None:
        check_same_data(start.saved, identity, job.note)
        restore(start.saved.content, start.saved.path, trained, state)
    result = Result(job.folders.checkpoints / checkpoint_name(config.arch, state), job.folders, state.results)
    if state.ended:
        job.note(nothing_left(config, state))
        job.console.begin(keep=False)
        return result
    if processes.is_first:
        job.folders.sweep()
    job.console.begin()
    job.note(_headline(job, model, len(train_images), len(val_images)))
    job.note(recipe_line(config, model, trained.optimizer, state, identity.data["images_per_update"]))
    batches, callbacks = follow(job, trained, state, loader, identity, start, _guard(job, loader, state))
    if start.saved is not None:
        start.saved.content.clear()  # the memory of a whole checkpoint
    if processes.is_first:
        record_run(job, model, state, train_images, val_images)
    validation = _validation(job, trained, val_read)
    train(
        step_of(config, trained, train_images, job.precision, processes, job.note),
        batches,
        assembly.schedule_of(config, state),
        state,
        validation=validation,
        callbacks=callbacks,
        stop=Stop(Agreement() if processes.count > 1 else None),
        seed=config.seed,
        rank=processes.rank,
    )
    report_run(job, state, validation, val_images)
    return replace(
        result, checkpoint=job.folders.checkpoints / checkpoint_name(config.arch, state), metrics=state.results
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
    return StopOnDivergence(
        config.skipped_steps_limit,
        names=lambda step: _names(loader, state, config.accumulation_step, step),
        log=job.folders.logs / "skipped.jsonl" if job.processes.is_first else None,
        note=job.note,
    )


def _names(loader: TrainLoader, state: State, accumulation: int, step: int) -> list[str]:
    """The images of the update that made `step`, of all processes."""
    epoch, done = divmod(step - 1, state.updates_per_epoch)
    return loader.names(epoch, done * accumulation, accumulation)


def _initial(job: Job, weights: Weights | None, classes: Sequence[str]) -> T2TViT:
    """The network on its device, with the weights to start from."""
    model = assembly.network(job.config, job.config.num_classes)
    if weights is not None:
        for text in start_from(model, weights, classes):
            job.note(text)
    job.precision.prepare(model)
    return model


def _validation(job: Job, trained: Trained, images: ImageSet) -> Validation:
    config = job.config
    preprocessing = assembly.preprocessing_of(config)
    # The training loader has said already how many workers there can be.
    loader = assembly.eval_loader(config, images, preprocessing, job.processes, job.device, _silent)
    weights = {"raw": trained.model} | ({} if trained.ema is None else {"ema": trained.ema.module})
    return Validation(loader, weights, config.eval_every_epochs, job.precision.autocast, job.processes.sum)


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
        [f"device_num {config.device_num}: torchrun started {processes.count}, which wins"]
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


def _silent(_: str) -> None:
    """Processes other than the first say nothing."""
