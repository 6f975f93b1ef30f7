"""A configuration -> the objects that it describes: preprocessing, images, loaders, network, optimizer, schedule."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from t2t_vit.data.batch_transform import BatchTransform
from t2t_vit.data.erasing import RandomErasing
from t2t_vit.data.images import ImageSet, check_class_count
from t2t_vit.data.loader import EvalLoader, TrainLoader
from t2t_vit.data.mixing import Mixing
from t2t_vit.data.opening import open_images, open_training_images
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.transforms import TrainTransform
from t2t_vit.model import T2TViT, create_model
from t2t_vit.settings.rules import image_size_of
from t2t_vit.settings.schema import KEYS, Config
from t2t_vit.training.distributed import Processes
from t2t_vit.training.loss import WeightedCrossEntropy
from t2t_vit.training.optimizer import create_optimizer
from t2t_vit.training.schedule import Schedule
from t2t_vit.training.state import State
from t2t_vit.training.step import Loss

Note = Callable[[str], None]


def _silent(_: str) -> None:
    """For those who have nobody to tell."""


def preprocessing_of(config: Config) -> Preprocessing:
    """How one image becomes the network's input."""
    return Preprocessing(image_size_of(config), config.crop_pct, config.mean, config.std, config.in_chans)


def training_images(config: Config, note: Note) -> tuple[ImageSet, ImageSet]:
    """The training and the validation images, whose classes agree with each other and with `num_classes`."""
    train, val = open_training_images(
        dataset=config.dataset,
        data_url=config.data_url,
        train_dir=_unless_default(config, "train_dir"),
        val_dir=_unless_default(config, "val_dir"),
        val_split=config.val_split,
        in_chans=config.in_chans,
        train_num_samples=config.train_num_samples,
        val_num_samples=config.val_num_samples,
        seed=config.seed,
        note=note,
    )
    check_class_count(train, config.num_classes, _where(config))
    return train, val


def validation_images(config: Config, note: Note = _silent) -> ImageSet:
    """The validation images, of as many classes as `num_classes` says."""
    images = open_images(
        "val",
        dataset=config.dataset,
        data_url=config.data_url,
        train_dir=_unless_default(config, "train_dir"),
        val_dir=_unless_default(config, "val_dir"),
        val_split=config.val_split,
        in_chans=config.in_chans,
        num_samples=config.val_num_samples,
        seed=config.seed,
        note=note,
    )
    check_class_count(images, config.num_classes, _where(config))
    return images


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
    config: Config, images: ImageSet, num_classes: int, processes: Processes, device: torch.device, note: Note
) -> TrainLoader:
    """Augmented, mixed training batches on the device."""
    return TrainLoader(
        images,
        train_transform(config),
        batch_transform(config, num_classes),
        batch_size=config.batch_size,
        balanced=config.class_balance == "sampling",
        workers=config.num_parallel_workers,
        rank=processes.rank,
        world=processes.count,
        device=device,
        ahead=config.dataset_sink_mode,
        resides=device.type == "cuda" and config.dataset != "ImageNet" and config.cache != "off",
        note=note,
    )


def eval_loader(
    config: Config,
    images: ImageSet,
    preprocessing: Preprocessing,
    processes: Processes,
    device: torch.device,
    note: Note,
) -> EvalLoader:
    """Every image once over all processes, normalised, on the device."""
    return EvalLoader(
        images,
        preprocessing,
        batch_size=config.batch_size,
        workers=config.num_parallel_workers,
        rank=processes.rank,
        world=processes.count,
        device=device,
        ahead=config.dataset_sink_mode,
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
        kernels=config.kernels,
    )
    model.freeze(config.freeze)
    return model


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
    """What is minimised: cross-entropy, of rare classes more where `class_balance` says so."""
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
    )


def some_images(images: ImageSet, count: int) -> Sequence[int]:
    """Numbers of up to `count` images, evenly spread over the set."""
    step = max(1, len(images) // count)
    return range(0, len(images), step)[:count]


def _where(config: Config) -> str:
    return config.data_url if config.dataset == "ImageNet" else config.dataset


def _unless_default(config: Config, name: str) -> str | None:
    """The folder's name where somebody chose one; else None, for which the usual names are tried."""
    value: str = getattr(config, name)
    return None if value == KEYS[name].default else value
