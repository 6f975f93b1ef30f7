"""A configuration -> the objects that it describes: images, loaders, network, optimizer, schedule, training step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from t2t_vit.data.batch_transform import BatchTransform, Mixing, RandomErasing
from t2t_vit.data.cache import ByteStore
from t2t_vit.data.datasets import Recorded, open_images, open_training_images, validation_folder
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import ImageSet, check_class_count
from t2t_vit.data.loader import BadImages, EvalLoader, TrainLoader
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.scan import class_name
from t2t_vit.errors import DataError, UserError
from t2t_vit.model import T2TViT, create_model
from t2t_vit.model.token_logits import TokenLogits
from t2t_vit.notes import silent
from t2t_vit.precision import Precision
from t2t_vit.settings.rules import crop_phases, image_size_of, largest_size_of, val_seed_of
from t2t_vit.settings.schema import KEYS, Config
from t2t_vit.training.average import EpochAverage
from t2t_vit.training.checkpoint import Trained
from t2t_vit.training.compilation import compile_for_training
from t2t_vit.training.distributed import Processes, share_gradients
from t2t_vit.training.ema import Ema
from t2t_vit.training.loss import BinaryCrossEntropy, WeightedCrossEntropy
from t2t_vit.training.mixed_precision import LossScaler, WorkingCopy
from t2t_vit.training.optimizer import Schedule, create_optimizer
from t2t_vit.training.randomness import SampleNumbers
from t2t_vit.training.state import State
from t2t_vit.training.step import TrainStep
from t2t_vit.training.teacher import Guidance, Loss, TokenDistillation
from t2t_vit.weights import Weights, fit
from t2t_vit.weights.description import HEAD

Note = Callable[[str], None]
OTHER_POOL = "its head was trained on another pool of the tokens ({}); here it is given the class token"


def preprocessing_of(config: Config) -> Preprocessing:
    """How one image becomes the network's input."""
    return Preprocessing(image_size_of(config), config.crop_pct, config.mean, config.std, config.in_chans)


def _source(config: Config) -> dict[str, Any]:
    """Where images come from, as `open_images` and `open_training_images` both take it."""
    return {
        "dataset": config.dataset,
        "data_url": config.data_url,
        "train_dir": _unless_default(config, "train_dir"),
        "val_dir": _unless_default(config, "val_dir"),
        "val_split": config.val_split,
        "in_chans": config.in_chans,
        "split_seed": config.split_seed,
        "max_pixels": config.max_pixels,
        "own": _own_folders(config),
    }


@contextmanager
def _data_errors() -> Iterator[None]:
    """What is wrong with the images of a data set has a class of its own, whoever of many finds it."""
    try:
        yield
    except UserError as error:
        raise DataError(str(error)) from error


@_data_errors()
def training_images(
    config: Config, note: Note, recorded: Recorded | None = None, classes: Sequence[str] | None = None
) -> tuple[ImageSet, ImageSet]:
    """The training and the validation images, whose classes agree with each other and with `num_classes`.

    Args:
        recorded: the images of a continued run.
        classes: their order, where they are these; then `num_classes` is not looked at.
    """
    train, val = open_training_images(
        **_source(config),
        train_num_samples=config.train_num_samples,
        val_num_samples=config.val_num_samples,
        seed=config.seed,
        val_seed=val_seed_of(config),
        note=note,
        recorded=recorded,
        classes=classes,
    )
    if classes is None:
        check_class_count(train, config.num_classes, _where(config))
    return train, val


@_data_errors()
def validation_images(
    config: Config, note: Note = silent, classes: Sequence[str] | None = None, path: str = ""
) -> ImageSet:
    """The validation images, numbered as `classes`, those of `path`; without them as many classes as `num_classes`."""
    images = open_images(
        "val",
        **_source(config),
        num_samples=config.val_num_samples,
        seed=val_seed_of(config),
        note=note,
        classes=classes,
        path=path,
    )
    if classes is None:
        check_class_count(images, config.num_classes, _where(config))
    return images


@_data_errors()
def validation_folder_of(config: Config) -> Path:
    """The folder whose classes the validation images lie in.

    Raises:
        DataError: there is none.
    """
    train_dir, val_dir = (_unless_default(config, name) for name in ("train_dir", "val_dir"))
    return validation_folder(config.data_url, train_dir, val_dir, config.val_split)


def _own_folders(config: Config) -> list[Path]:
    roots = (config.ckpt_root_dir, config.best_ckpt_root_dir, config.summary_root_dir, config.logs_root_dir)
    return [Path(root).resolve() for root in roots]


def train_transform(config: Config) -> TrainTransform:
    """What happens to one training image, in a worker."""
    return TrainTransform(
        image_size_of(config),
        in_chans=config.in_chans,
        min_crop=config.min_crop,
        hflip=config.hflip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        aa_interpolation=config.aa_interpolation,
        train_interpolation=config.train_interpolation,
        mean=config.mean,
    )


def largest_transform(config: Config) -> TrainTransform:
    """As `train_transform`, of a size that holds the images of every epoch: what it needs of an image, all need."""
    return replace(train_transform(config), image_size=largest_size_of(config))


def batch_transform(config: Config, num_classes: int) -> BatchTransform:
    """What happens to a whole training batch, on the device."""
    return BatchTransform(
        preprocessing_of(config),
        num_classes,
        RandomErasing(config.re_prob, config.re_mode, config.re_count),
        Mixing(
            mixup=config.mixup,
            cutmix=config.cutmix,
            prob=config.mixup_prob,
            switch_prob=config.switch_prob,
            mode=config.mixup_mode,
            off_epoch=config.mixup_off_epoch,
        ),
        config.label_smoothing,
        config.seed,
    )


def train_loader(
    config: Config,
    images: ImageSet,
    num_classes: int,
    processes: Processes,
    device: torch.device,
    note: Note,
    bad: BadImages | None = None,
) -> TrainLoader:
    """Augmented, mixed training batches on the device."""
    return TrainLoader(
        images,
        train_transform(config),
        batch_transform(config, num_classes),
        batch_size=config.batch_size,
        sizes=crop_phases(config),
        balanced=config.class_balance == "sampling",
        views=config.repeated_augment,
        accumulation=config.accumulation_step,
        workers=config.num_parallel_workers,
        rank=processes.rank,
        world=processes.count,
        device=device,
        ahead=config.dataset_sink_mode,
        bad=bad or BadImages(config.bad_images == "error", note=note),
        note=note,
    )


def eval_loader(
    config: Config,
    images: ImageSet,
    preprocessing: Preprocessing,
    processes: Processes,
    device: torch.device,
    note: Note,
    bad: BadImages | None = None,
    kept: ByteStore | None = None,
) -> EvalLoader:
    """Every image that can be read once over all processes, normalised, on the device."""
    return EvalLoader(
        images,
        preprocessing,
        batch_size=config.batch_size,
        workers=config.num_parallel_workers,
        rank=processes.rank,
        world=processes.count,
        device=device,
        ahead=config.dataset_sink_mode,
        kept=kept,
        bad=bad or BadImages(config.bad_images == "error", note=note),
        note=note,
    )


def network(config: Config, num_classes: int) -> T2TViT:
    """The network, initialised by `seed`, what `freeze` names not to be trained."""
    torch.manual_seed(config.seed)
    model = create_model(
        config.arch,
        num_classes=num_classes,
        in_chans=config.in_chans,
        image_size=image_size_of(config),
        drop=config.drop,
        drop_path=config.drop_path,
        drop_block=config.drop_block,
        performer_drop=config.performer_drop,
        approximate_gelu=not config.disable_approximate_gelu,
        other_sizes="resize" if config.crop_schedule else None,
    )
    model.freeze(config.freeze)
    return model


def start_from(model: T2TViT, weights: Weights, classes: Sequence[str]) -> list[str]:
    """Fill `model`, whose logits are `classes`, with `weights`; what was done, a sentence each.

    A head that knows its classes by name keeps those that exist again, in any order, and starts again
    for the others: equal counts say nothing. One without names is kept where the counts agree.
    """
    pool = (weights.config or {}).get("global_pool", model.global_pool)
    notes = [] if pool == model.global_pool else [f"{weights.path}: {OTHER_POOL.format(pool or 'all tokens')}"]
    return [*_filled(model, weights, classes), *notes]


def _filled(model: T2TViT, weights: Weights, classes: Sequence[str]) -> list[str]:
    known = weights.classes
    if known is not None:
        known, classes = tuple(map(class_name, known)), tuple(map(class_name, classes))
    if known is None or known == classes or HEAD[0] not in weights.tensors:
        return [f"{weights.path}: {fit(model, weights.tensors, path=weights.path, chosen=weights.chosen)}"]
    body = {name: tensor for name, tensor in weights.tensors.items() if name not in HEAD}
    report = fit(model, body, path=weights.path, chosen=weights.chosen)
    shared = [name for name in classes if name in known]
    with torch.no_grad():
        for name in HEAD:
            for label in shared:
                model.get_parameter(name)[classes.index(label)] = weights.tensors[name][known.index(label)]
    kept = f"keeps {len(shared)} of its {len(known)} classes and is new for" if shared else "is new:"
    return [f"{weights.path}: {report}", f"the head {kept} {_some([name for name in classes if name not in known])}"]


def optimizer_of(config: Config, model: T2TViT) -> torch.optim.Optimizer:
    """The optimizer over the model's parameter groups; with `layer_decay`, two a layer."""
    return create_optimizer(
        model,
        config.optimizer,
        lr=config.base_lr,
        weight_decay=config.weight_decay,
        betas=config.beta,
        eps=config.eps,
        momentum=config.momentum,
        lr_scales=layer_scales(model, config.layer_decay) if config.layer_decay < 1 else None,
    )


def layer_scales(model: T2TViT, decay: float) -> dict[str, float]:
    """Parameter name -> factor of the learning rate: decay^(L - 1 - i) for layer i of L, 1 for the head.

    Layers are those of `T2TViT.layer_groups`. Source: Clark et al. 2020 (ELECTRA), Bao et al. 2021 (BEiT).
    """
    layers = model.layer_groups()
    return {name: decay ** (len(layers) - 1 - i) for i, names in enumerate(layers) for name in names}


def loss_of(config: Config, images: ImageSet, device: torch.device) -> Loss:
    """What is minimised: by `loss`, of rare classes more where `class_balance` says so."""
    if config.loss == "bce":
        return BinaryCrossEntropy(config.bce_target_thresh)
    if config.class_balance != "weights":
        return cross_entropy
    counts = torch.from_numpy(np.bincount(images.targets, minlength=len(images.classes)))
    return WeightedCrossEntropy(counts.to(device), config.label_smoothing)


def schedule_of(config: Config, state: State) -> Schedule:
    """The learning rate of each optimizer step."""
    return Schedule(
        config.lr_scheduler,
        base_lr=config.base_lr,
        epochs=config.epochs,
        updates_per_epoch=state.updates_per_epoch,
        min_lr=config.min_lr,
        warmup_lr=config.warmup_lr,
        warmup_length=config.warmup_length,
        lr_adjust=config.lr_adjust,
        lr_gamma=config.lr_gamma,
        lr_decay_share=config.lr_decay_share,
        lr_decay_shape=config.lr_decay_shape,
    )


def some_images(images: ImageSet, count: int) -> Sequence[int]:
    """Numbers of up to `count` images, evenly spread over the set."""
    step = max(1, len(images) // count)
    return range(0, len(images), step)[:count]


def trained_of(config: Config, model: T2TViT, precision: Precision) -> Trained:
    """The network, which is on its device, with all that a step changes."""
    return Trained(
        model,
        optimizer_of(config, model),
        LossScaler(precision.device, config.loss_scale, dynamic=config.is_dynamic_loss_scale)
        if precision.scales_loss
        else LossScaler(precision.device),
        Ema(model, config.ema_decay) if config.with_ema else None,
        average_of(config, model),
    )


def average_of(config: Config, model: T2TViT) -> EpochAverage | None:
    """The average of the weights at the ends of epochs that `model_average` asks for."""
    if config.model_average == "none":
        return None
    if config.model_average == "last_k":
        return EpochAverage(model, last=config.average_epochs)
    epochs = config.epochs + config.cooldown_epochs
    averaged = max(1, round(config.average_share * epochs))
    return EpochAverage(model, first_epoch=epochs - averaged + 1)


def step_of(
    config: Config,
    trained: Trained,
    images: ImageSet,
    precision: Precision,
    processes: Processes,
    note: Callable[[str], None],
    distillation: Guidance | None = None,
) -> TrainStep:
    """The training step; `images` are those that classes are counted in, where the loss weights them."""
    copy = WorkingCopy(trained.model, precision.working_copy(trained.model)) if precision.has_masters else None
    working = trained.model if copy is None else copy.module
    assert isinstance(working, T2TViT)
    model: nn.Module = working
    if isinstance(distillation, TokenDistillation):
        model = TokenLogits(working, distillation.mixing.tokens if distillation.mixing else None)
    if not config.pynative_mode:
        sizes = len({size for size, _ in crop_phases(config)})
        model = compile_for_training(model, precision.device, note, sizes or 1)
    return TrainStep(
        share_gradients(model, processes, precision.device),
        trained.optimizer,
        scaler=trained.scaler,
        ema=trained.ema,
        accumulation=config.accumulation_step,
        clip_norm=config.clip_grad_norm if config.use_clip_grad_norm else None,
        autocast=precision.autocast,
        mean=processes.mean,
        loss=loss_of(config, images, precision.device),
        distillation=distillation,
        copy=copy,
        numbers=SampleNumbers(working.sample_seeds.set, config.seed, processes.rank),
    )


def _where(config: Config) -> str:
    return config.data_url if config.dataset == "ImageNet" else config.dataset


def _unless_default(config: Config, name: str) -> str | None:
    """The folder's name where somebody chose one; else None, for which the usual names are tried."""
    value: str = getattr(config, name)
    return None if value == KEYS[name].default else value


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
