"""What keys mean beside each other: combinations that cannot be, and keys without effect; a table of rules each."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from t2t_vit.errors import UserError
from t2t_vit.settings.schema import KEYS, OF_SEED, SIDE, Config, checked
from t2t_vit.variants import find_variant

# Prefixes of timm's optimizers without `momentum`.
ADAPTIVE = ("adam", "nadam", "radam", "lamb", "lion", "adan", "adopt", "adabelief", "laprop", "adafactor")
_LONGEST_LIST = 16  # values of a list in a sentence


@dataclass(frozen=True)
class Contradiction:
    """A combination that cannot be; `sentence` may name any key's value in braces."""

    when: Callable[[Config], bool]
    sentence: str


@dataclass(frozen=True)
class Inactive:
    """Keys that have no effect while `when` holds; `because` may name any key's value in braces."""

    keys: tuple[str, ...]
    when: Callable[[Config], bool]
    because: str


def _resumes(config: Config) -> bool:
    return config.resume != "" or (config.pretrained != "" and not config.exclude_epoch_state)


def _starts_from_weights(config: Config) -> bool:
    return config.resume != "" or config.pretrained != ""


def _mixes(config: Config) -> bool:
    return config.cutmix > 0 or config.mixup > 0


def _mixes_targets(config: Config) -> bool:
    return (_mixes(config) and config.mixup_prob > 0) or (config.distill == "dense" and config.mix_token > 0)


def _loss_is_scaled(config: Config) -> bool:
    return config.amp_level in ("O1", "O2", "auto")


def _in_memory(config: Config) -> bool:
    return config.dataset != "ImageNet"


def _follows_adam(config: Config) -> bool:
    return config.optimizer.startswith(ADAPTIVE)


def _total_epochs(config: Config) -> int:
    return config.epochs + config.cooldown_epochs


def _shares_rise(config: Config) -> bool:
    shares = [share for _, share in _crops(config)]
    return shares == sorted(set(shares)) and shares[-1:] in ([], [1.0])


CONTRADICTIONS = (
    Contradiction(
        lambda c: len(c.mean) not in (1, c.in_chans),
        "mean {mean} does not fit in_chans {in_chans}; give one value, or one per channel",
    ),
    Contradiction(
        lambda c: len(c.std) not in (1, c.in_chans),
        "std {std} does not fit in_chans {in_chans}; give one value, or one per channel",
    ),
)
TRAINING_CONTRADICTIONS = (
    Contradiction(
        lambda c: c.repeated_augment > 1 and c.class_balance == "sampling",
        "repeated_augment {repeated_augment} and class_balance sampling both decide which images an epoch has; choose "
        "class_balance weights, or repeated_augment 1",
    ),
    Contradiction(
        lambda c: c.loss == "bce" and c.class_balance == "weights",
        "class_balance weights is for loss ce; choose class_balance sampling, or loss ce",
    ),
    Contradiction(
        lambda c: c.loss == "bce" and c.bce_target_thresh > 0 and c.label_smoothing > 0,
        "bce_target_thresh {bce_target_thresh} makes every target 0 or 1, which undoes label_smoothing "
        "{label_smoothing}; set one of the two to 0",
    ),
    Contradiction(
        lambda c: not _shares_rise(c),
        "crop_schedule {crop_schedule}: the shares must rise, and the last one must be 1.0, as in 96:0.6,128:1.0",
    ),
    Contradiction(
        lambda c: not all(SIDE.allows(side) for size, _ in _crops(c) for side in size),
        "crop_schedule {crop_schedule}: sides have at least 8 and at most 8192 pixels",
    ),
    Contradiction(
        lambda c: c.with_ema and c.model_average != "none",
        "with_ema True and model_average {model_average} are two averages, and a run keeps one; set with_ema False, or "
        "model_average none",
    ),
    Contradiction(
        lambda c: c.amp_level == "O3", "amp_level O3 is for inference only; train with O0, O1, O2, bf16 or auto"
    ),
    Contradiction(
        lambda c: c.start_epoch >= _total_epochs(c),
        "start_epoch {start_epoch} leaves nothing to train: epochs is {epochs} and cooldown_epochs {cooldown_epochs}",
    ),
    Contradiction(
        lambda c: c.start_epoch > 0 and _resumes(c) and c.resume != "auto",
        "start_epoch {start_epoch} contradicts a continued run, which has its own epoch; leave start_epoch out",
    ),
    Contradiction(
        lambda c: c.resume != "" and c.pretrained != "" and not c.exclude_epoch_state,
        "resume and pretrained (with exclude_epoch_state False) both name a run to continue; leave one of them out",
    ),
    Contradiction(
        lambda c: c.distill == "dense" and c.distill_weight == 1,
        "distill dense with distill_weight 1 trains only the other tokens, but the class token gives the answer; "
        "choose less than 1",
    ),
    Contradiction(
        lambda c: c.distill == "dense" and c.mix_token > 0 and _mixes(c) and c.mixup_prob > 0,
        "mix_token {mix_token} takes the place of mixup and cutmix; set both to 0, or leave mix_token at 0",
    ),
    Contradiction(
        lambda c: c.distill != "none" and c.teacher == "",
        "distill {distill} needs a teacher; give its file with --teacher, or leave distill at none",
    ),
)

INACTIVE = (
    Inactive(("re_mode", "re_count"), lambda c: c.re_prob == 0, "re_prob is 0"),
    Inactive(("aa_interpolation",), lambda c: c.auto_augment == "", "auto_augment is off"),
    Inactive(
        ("color_jitter",),
        # timm keeps the jitter with its 3-Augment, which is designed for it.
        lambda c: c.auto_augment != "" and "3a" not in c.auto_augment,
        "auto_augment takes its place",
    ),
    Inactive(
        ("mixup_prob", "mixup_mode", "mixup_off_epoch", "switch_prob"),
        lambda c: not _mixes(c),
        "cutmix and mixup are 0",
    ),
    Inactive(
        ("cutmix", "mixup", "mixup_mode", "mixup_off_epoch", "switch_prob"),
        lambda c: _mixes(c) and c.mixup_prob == 0,
        "mixup_prob is 0",
    ),
    Inactive(
        ("switch_prob",),
        lambda c: _mixes(c) and c.mixup_prob > 0 and min(c.cutmix, c.mixup) == 0,
        "only one of cutmix and mixup is on",
    ),
    Inactive(
        ("mixup_off_epoch",),
        lambda c: _mixes(c) and c.mixup_prob > 0 and c.mixup_off_epoch >= _total_epochs(c),
        "the run ends before it",
    ),
    Inactive(("beta", "eps"), lambda c: c.optimizer in ("sgd", "momentum"), "optimizer is {optimizer}"),
    Inactive(("momentum",), _follows_adam, "optimizer is {optimizer}"),
    Inactive(
        ("lr_gamma",), lambda c: c.lr_scheduler not in ("multistep_lr", "exp_lr"), "lr_scheduler is {lr_scheduler}"
    ),
    Inactive(
        ("lr_decay_share", "lr_decay_shape"), lambda c: c.lr_scheduler != "wsd_lr", "lr_scheduler is {lr_scheduler}"
    ),
    Inactive(("lr_adjust",), lambda c: c.lr_scheduler != "multistep_lr", "lr_scheduler is {lr_scheduler}"),
    Inactive(
        ("min_lr",),
        lambda c: c.lr_scheduler == "constant_lr" and c.min_lr <= c.base_lr and c.cooldown_epochs == 0,
        "lr_scheduler is {lr_scheduler}",
    ),
    Inactive(("warmup_lr",), lambda c: c.warmup_length == 0, "warmup_length is 0"),
    Inactive(("clip_grad_norm",), lambda c: not c.use_clip_grad_norm, "use_clip_grad_norm is False"),
    Inactive(("bce_target_thresh",), lambda c: c.loss != "bce", "loss is {loss}"),
    Inactive(("bce_target_thresh",), lambda c: not _mixes_targets(c), "nothing is mixed"),
    Inactive(
        ("loss", "label_smoothing"),
        lambda c: c.distill != "none" and c.distill_weight == 1,
        "distill_weight is 1",
    ),
    Inactive(("patience",), lambda c: c.eval_every_epochs == 0, "the run is evaluated only at its end"),
    Inactive(("ema_decay",), lambda c: not c.with_ema, "with_ema is False"),
    Inactive(("average_epochs",), lambda c: c.model_average != "last_k", "model_average is {model_average}"),
    Inactive(("average_share",), lambda c: c.model_average != "swa", "model_average is {model_average}"),
    Inactive(("loss_scale", "is_dynamic_loss_scale"), lambda c: not _loss_is_scaled(c), "amp_level is {amp_level}"),
    Inactive(("teacher", "distill_weight", "distill_temperature"), lambda c: c.distill == "none", "distill is none"),
    Inactive(("mix_token",), lambda c: c.distill != "dense", "distill is {distill}"),
    Inactive(("distill_temperature",), lambda c: c.distill != "soft", "distill is {distill}"),
    Inactive(("exclude_epoch_state",), lambda c: c.pretrained == "", "pretrained is empty"),
    Inactive(("cache",), lambda c: _total_epochs(c) == 1, "a single epoch reads nothing twice"),
    Inactive(
        ("train_dir", "val_dir", "val_split", "bad_images", "max_pixels", "cache"), _in_memory, "dataset is {dataset}"
    ),
    Inactive(("split_seed",), lambda c: c.val_split == 0, "val_split is 0"),
    Inactive(("val_seed",), lambda c: c.val_num_samples == -1, "val_num_samples is -1"),
    Inactive(
        ("layer_decay", "drop_path"), lambda c: c.freeze == "backbone", "freeze is backbone: only the head is trained"
    ),
    Inactive(("drop_block", "performer_drop"), lambda c: c.freeze != "", "freeze is {freeze}"),
    Inactive(("performer_drop",), lambda c: find_variant(c.arch).tokens != "performer", "{arch} has no performer"),
    Inactive(("device_id", "dataset_sink_mode"), lambda c: c.device_target == "CPU", "the device is the CPU"),
    Inactive(
        ("device_id",),
        lambda c: c.device_num > 1 and c.device_target != "CPU",
        "each of the device_num {device_num} processes takes its own device",
    ),
)

REMARKS = (
    Contradiction(
        lambda c: c.layer_decay < 1 and not _starts_from_weights(c),
        "layer_decay {layer_decay} is for trained weights: give them with pretrained, or leave layer_decay at 1",
    ),
    Contradiction(
        lambda c: c.freeze != "" and not _starts_from_weights(c),
        "freeze {freeze} without pretrained: the frozen part keeps its random initial weights and is never trained",
    ),
    Contradiction(
        lambda c: c.min_lr > c.base_lr,
        "min_lr {min_lr} is above base_lr {base_lr}: after warm-up the learning rate stays at min_lr",
    ),
    Contradiction(
        lambda c: c.crop_schedule != "" and _crops(c)[-1][0] != image_size_of(c),
        "crop_schedule {crop_schedule} ends with another size than image_size {image_size}, which evaluations use",
    ),
    Contradiction(
        lambda c: c.warmup_length > _total_epochs(c),
        "warmup_length {warmup_length} is longer than the run: it ends before base_lr is reached",
    ),
)


def validate(config: Config) -> None:
    """Check every value, and the combinations that matter to every command.

    Raises:
        UserError: a value of the wrong type or out of range, or a combination that cannot be.
    """
    for name in KEYS:
        checked(name, getattr(config, name))
    find_variant(config.arch).grids(image_size_of(config))
    _refuse(CONTRADICTIONS, config)


def validate_training(config: Config) -> None:
    """Check the combinations that matter to training alone.

    Raises:
        UserError: a combination that cannot be, or that this version cannot train yet.
    """
    _refuse(TRAINING_CONTRADICTIONS, config)


def inactive_keys(config: Config, given: Iterable[str] = ()) -> list[str]:
    """Keys without effect beside the others, as `re_count (re_prob is 0)`.

    Only keys that are in `given` (the command line's) or differ from their default are named, each once.
    """
    found: dict[str, str] = {}
    for rule in INACTIVE:
        if rule.when(config):
            for name in rule.keys:
                found.setdefault(name, f"{name} ({_fill(rule.because, config)})")
    return [text for name, text in found.items() if name in given or getattr(config, name) != KEYS[name].default]


def remarks(config: Config) -> list[str]:
    """Sentences on combinations that are allowed but rarely meant."""
    return [_fill(rule.sentence, config) for rule in REMARKS if rule.when(config)]


def fit_channels(config: Config, given: Iterable[str]) -> Config:
    """Mean and deviation with a value for each channel.

    A single value is repeated. The defaults, which are those of three colours, are averaged for one channel and get
    0.5 for the alpha channel of four, unless they were `given` as they are.
    """
    fitted = {name: _channels(getattr(config, name), config.in_chans, name in given) for name in ("mean", "std")}
    return replace(config, mean=fitted["mean"], std=fitted["std"])


def image_size_of(config: Config) -> tuple[int, int]:
    """(height, width) of the network's input."""
    size = config.image_size
    return (size, size) if isinstance(size, int) else size


def val_seed_of(config: Config) -> int:
    """The seed that draws the validation images of `val_num_samples`."""
    return config.seed if config.val_seed == OF_SEED else config.val_seed


def crop_phases(config: Config) -> tuple[tuple[tuple[int, int], int], ...]:
    """(height, width) of the training images, and the epoch, from 0, at which the next size follows; () without any."""
    return tuple((size, math.ceil(share * config.epochs - 0.5)) for size, share in _crops(config))


def largest_size_of(config: Config) -> tuple[int, int]:
    """(height, width) that hold the images of every epoch and of every evaluation."""
    heights, widths = zip(image_size_of(config), *(size for size, _ in _crops(config)), strict=True)
    return max(heights), max(widths)


def _crops(config: Config) -> list[tuple[tuple[int, int], float]]:
    """The sizes of `crop_schedule` with the shares of the epochs at which they end."""
    found = []
    for part in filter(None, config.crop_schedule.split(",")):
        size, share = part.split(":")
        sides = [int(side) for side in size.split("x")]
        found.append(((sides[0], sides[-1]), float(share)))
    return found


def _channels(values: tuple[float, ...], channels: int, given: bool) -> tuple[float, ...]:
    if len(values) == 1:
        return values * channels
    if given or len(values) == channels:
        return values
    return (round(sum(values) / len(values), 6),) if channels == 1 else (*values, 0.5)


def _refuse(rules: Iterable[Contradiction], config: Config) -> None:
    for rule in rules:
        if rule.when(config):
            raise UserError(_fill(rule.sentence, config))


def _fill(sentence: str, config: Config) -> str:
    return sentence.format_map({name: _short(value) for name, value in config.to_dict().items()})


def _short(value: object) -> object:
    """A value for a sentence: of a long list its beginning."""
    if isinstance(value, list | tuple) and len(value) > _LONGEST_LIST:
        return f"[{', '.join(map(str, value[:_LONGEST_LIST]))}, ... ({len(value):,} values)]"
    return value
