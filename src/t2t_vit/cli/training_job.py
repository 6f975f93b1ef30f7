"""One training run: a configuration and perhaps weights to start from -> checkpoints, logs and curves."""

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace

from t2t_vit.cli import assembly
from t2t_vit.cli.followers import follow
from t2t_vit.cli.job import Folders, Job, Result
from t2t_vit.config import Config
from t2t_vit.data.images import ImageSet
from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT
from t2t_vit.precision import choose_device, choose_precision
from t2t_vit.training.checkpoint import Trained, checkpoint_name
from t2t_vit.training.compilation import compile_for_training
from t2t_vit.training.console import Console
from t2t_vit.training.distributed import Processes, connected, share_gradients
from t2t_vit.training.ema import Ema
from t2t_vit.training.loop import Validation, train
from t2t_vit.training.scaler import LossScaler
from t2t_vit.training.state import State
from t2t_vit.training.step import TrainStep
from t2t_vit.weights import Weights, fit


def train_job(
    config: Config,
    processes: Processes,
    *,
    weights: Weights | None = None,
    notes: Sequence[str] = (),
    given: Collection[str] = (),
) -> Result:
    """Train as `config` says, from `weights` where they are given.

    Args:
        notes: told at the start.
        given: keys that stood on the command line.

    Raises:
        UserError: the data, the device or a combination of settings is not as it should be.
    """
    train_images, val_images = assembly.training_images(config)
    config = replace(config, num_classes=len(train_images.classes))
    folders = Folders.of(config)
    if processes.is_first:
        folders.check()
    log = folders.logs / "train.log"
    with closing(Console(log, held=True) if processes.is_first else Console(live=False)) as console:
        note = console.line if processes.is_first else _silent
        for text in [*notes, *_processes_note(config, processes, given)]:
            note(text)
        device = choose_device(config.device_target, _device_number(config, processes), note=note)
        precision = choose_precision(config.amp_level, device, training=True, note=note)
        job = Job(config, processes, device, precision, folders, console, note)
        with connected(processes, device):
            return _train(job, weights, train_images, val_images)


def _train(job: Job, weights: Weights | None, train_images: ImageSet, val_images: ImageSet) -> Result:
    config, processes = job.config, job.processes
    model = _initial(job, weights)
    trained = _trained(job, model)
    loader = assembly.train_loader(config, train_images, config.num_classes, processes, job.device, job.note)
    state = State.begin(
        len(loader),
        accumulation=config.accumulation_step,
        epochs=config.epochs + config.cooldown_epochs,
        start_epoch=config.start_epoch,
        max_steps=config.max_steps,
    )
    job.console.begin()
    job.note(_headline(job, model, len(train_images), len(val_images)))
    batches, callbacks = follow(job, trained, state, loader, train_images.classes)
    train(
        _step(job, trained),
        batches,
        assembly.schedule_of(config, state),
        state,
        validation=_validation(job, trained, val_images),
        callbacks=callbacks,
        seed=config.seed,
        rank=processes.rank,
    )
    return Result(job.folders.checkpoints / checkpoint_name(config.arch, state), job.folders, state.results)


def _initial(job: Job, weights: Weights | None) -> T2TViT:
    """The network on its device, with the weights to start from."""
    model = assembly.network(job.config, job.config.num_classes)
    if weights is not None:
        report = fit(model, weights.tensors, path=weights.path, chosen=weights.chosen)
        job.note(f"{weights.path}: {report}")
    job.precision.prepare(model)
    return model


def _trained(job: Job, model: T2TViT) -> Trained:
    config = job.config
    return Trained(
        model,
        assembly.optimizer_of(config, model),
        LossScaler(job.device, config.loss_scale, dynamic=config.is_dynamic_loss_scale)
        if job.precision.scales_loss
        else LossScaler(job.device),
        Ema(model, config.ema_decay) if config.with_ema else None,
    )


def _step(job: Job, trained: Trained) -> TrainStep:
    config = job.config
    model = trained.model if config.pynative_mode else compile_for_training(trained.model, job.device, job.note)
    return TrainStep(
        share_gradients(model, job.processes, job.device),
        trained.optimizer,
        scaler=trained.scaler,
        ema=trained.ema,
        accumulation=config.accumulation_step,
        clip_norm=config.clip_grad_norm if config.use_clip_grad_norm else None,
        autocast=job.precision.autocast,
        mean=job.processes.mean,
    )


def _validation(job: Job, trained: Trained, images: ImageSet) -> Validation:
    config = job.config
    preprocessing = assembly.preprocessing_of(config)
    loader = assembly.eval_loader(config, images, preprocessing, job.processes, job.device, job.note)
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
