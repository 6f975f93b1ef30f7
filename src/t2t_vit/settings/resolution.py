"""Who wins: the command line, then the checkpoint, then the configuration file, then the defaults.

`resolve` is for a new run and for every command that is no training, `continued` for a continued run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from t2t_vit.errors import UserError
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.commands import TRAVELLING_KEYS, VALIDATION_KEYS
from t2t_vit.settings.rules import fit_channels, inactive_keys, remarks, validate, validate_training
from t2t_vit.settings.schema import AUTO_BATCH, KEYS, OF_SEED, Config, checked
from t2t_vit.settings.values import Value, spelt

# The network itself: training from a checkpoint keeps these, whatever the configuration file says.
NETWORK_KEYS = frozenset({"arch", "in_chans", "disable_approximate_gelu"})
# Keys that may differ on the command line; the checkpoint is then adapted to them.
REFIT_KEYS = frozenset({"num_classes", "image_size", "crop_pct"})
_NETWORK = "the weights belong to another network"
_OPTIMIZER = "the optimizer's state belongs to the old one"
_IMAGES = "its steps, epochs and lists of best checkpoints count the old images"
# Keys that cannot change in a continued run, because the saved state would no longer fit, each with the reason.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("arch", "in_chans", "image_size", "num_classes", "disable_approximate_gelu"), _NETWORK),
    **dict.fromkeys(("optimizer", "layer_decay", "freeze"), _OPTIMIZER),
    **dict.fromkeys(
        ("dataset", "train_num_samples", "val_num_samples", "val_split", "split_seed", "val_seed", "class_balance"),
        _IMAGES,
    ),
    "seed": "every random number and the order of the images would change",
    "with_ema": "an average covers all weights since the first step",
    "model_average": "an average covers the weights of all its epochs",
    "start_epoch": "a continued run has its own epoch",
}
# Keys that change no number of a run, only where and how it is computed. A change of any other key makes it
# a different run.
FREE = frozenset(
    "data_url train_dir val_dir teacher bad_images max_pixels num_parallel_workers cache dataset_sink_mode max_steps "  # noqa: SIM905
    "skipped_steps_limit file_format runtime device_id device_num summary_root_dir ckpt_root_dir "
    "best_ckpt_root_dir logs_root_dir ckpt_keep_num best_ckpt_num ckpt_save_every_step "
    "ckpt_save_every_seconds print_loss_every summary_loss_collect_freq model_postfix "
    "collect_input_data dump_graph tracker resume pretrained exclude_epoch_state max_hours patience".split()
)
# Keys whose value 0 lets the run decide.
OPEN = frozenset({"num_classes", "start_epoch", "batch_size"})
# They say which run to continue, and are not part of its configuration.
CHOICE = frozenset({"resume", "pretrained", "exclude_epoch_state"})


class Saved(Protocol):
    """A run at the moment that a checkpoint was written, as `weights.SavedRun` reads it."""

    @property
    def path(self) -> Path: ...
    @property
    def step(self) -> int: ...
    @property
    def content(self) -> Mapping[str, Any]: ...


def resolve(options: Options, checkpoint: Mapping[str, Any] | None = None) -> tuple[Config, list[str]]:
    """Bring command line, checkpoint, file and defaults together.

    What defines the model and its preprocessing travels with a checkpoint and beats the file. In training only the
    network does (`arch`, `in_chans`, `disable_approximate_gelu`): the rest is the file's business, and the
    checkpoint's where the file is silent. So are, in eval and export, the keys of the data set.

    Args:
        checkpoint: configuration that the checkpoint holds, whole or in part (of foreign weights what their tensors
            tell); keys that do not travel are left aside.

    Returns:
        The configuration, and notes for standard error, one line each.

    Raises:
        UserError: the command line contradicts the checkpoint, or keys contradict each other.
    """
    options = _as_said(options)
    held = _held(options, checkpoint or {})
    strong = {name: value for name, value in held.items() if name in _strong_keys(options)}
    weak = {name: value for name, value in held.items() if name not in strong}
    # num_classes 0 on the command line means "as many as there are", which the checkpoint knows.
    line = {name: value for name, value in options.line.items() if name != "num_classes" or value or name not in strong}
    scaled = _scaled_to_epochs(options)
    values: dict[str, Any] = {**weak, **options.file, **strong, **scaled, **line}
    config = fit_channels(Config(**values), values)
    if config.batch_size == AUTO_BATCH and not options.command.trains:  # in training it is found by trial
        config = replace(config, batch_size=int(cast(int, KEYS["batch_size"].default)))
    notes = [
        *_scaling_note(options, scaled),
        *_against_line(options, line, strong, config),
        *_against_file(options, line, strong, config),
        *_inherited(options, held if options.command.trains else weak, values),
        *_channels_note(config, values),
    ]
    validate(config)
    if options.command.trains:
        validate_training(config)
        notes += remarks(config)
    return config, notes + _without_effect(options, config)


def continued(options: Options, saved: Saved, place: Mapping[str, Value] | None = None) -> tuple[Config, list[str]]:
    """The configuration that the run of `saved` continues with, and what to say of it, one line each.

    Args:
        place: keys of the folder that the checkpoint was found in, which may have been moved since.

    Raises:
        UserError: a change that would give the state another meaning, or keys that contradict each other.
    """
    options, held = _as_said(options), _config_of(saved)
    line = {
        name: value
        for name, value in options.line.items()
        # num_classes 0 is as many as there are, start_epoch 0 changes nothing, and batch_size auto is
        # the number found when the run began.
        if name not in CHOICE and (value or name not in OPEN)
    }
    values: dict[str, Any] = {name: getattr(held, name) for name in KEYS} | line | dict(place or {})
    config = replace(fit_channels(Config(**values), line), resume="")
    changed = [name for name in line if not _same(name, line[name], getattr(held, name), config)]
    _refuse([name for name in changed if name in REFUSED], line, held, saved)
    notes = [*_changed(changed, line, held, saved), *_kept_against_file(options, place or {}, config, saved)]
    validate(config)
    validate_training(config)
    return config, notes + _without_effect(replace(options, file={}), config)


def _as_said(options: Options) -> Options:
    """With a `train_dir` that cannot be mistaken for the default, which lets the usual names be looked for."""
    default = KEYS["train_dir"].default
    if options.line.get("train_dir") != default:
        return options
    return replace(options, line={**options.line, "train_dir": f"./{default}"})


def _with_split_seed(held: Mapping[str, Any]) -> Mapping[str, Any]:
    """Until there was a `split_seed`, `seed` chose the validation images: a run that began so continues so."""
    return {"split_seed": held["seed"], **held} if "seed" in held else held


def _strong_keys(options: Options) -> frozenset[str]:
    return NETWORK_KEYS if options.command.trains else TRAVELLING_KEYS


def _held(options: Options, checkpoint: Mapping[str, Any]) -> dict[str, Value]:
    """The keys of the checkpoint that matter to the command."""
    names = set(TRAVELLING_KEYS)
    if options.command.trains:
        names -= {"num_classes"}
    elif "val_dir" in options.command.uses and not _other_dataset(options, checkpoint):
        names |= VALIDATION_KEYS
    checkpoint = _with_split_seed(checkpoint)
    try:
        return {name: checked(name, checkpoint[name]) for name in KEYS if name in names and name in checkpoint}
    except UserError as error:
        raise UserError(f"{options.checkpoint}: its configuration is damaged: {error}") from None


def _other_dataset(options: Options, checkpoint: Mapping[str, Any]) -> bool:
    """Whether command line or file name another data set than the checkpoint's, whose folders then mean nothing."""
    named = options.line.get("dataset", options.file.get("dataset"))
    return named is not None and named != checkpoint.get("dataset")


def _scaled_to_epochs(options: Options) -> dict[str, Value]:
    """Warm-up and cooldown of a recipe whose number of epochs the command line changes; empty where nothing changes.

    Each keeps its share of the epochs, unless it is on the command line itself. A cooldown is whole epochs.
    """
    if not (options.command.trains and options.path and "epochs" in options.line):
        return {}
    base = Config(**options.file)  # type: ignore[arg-type]
    share = float(str(options.line["epochs"])) / base.epochs
    scaled: dict[str, Value] = {
        "warmup_length": float(f"{base.warmup_length * share:.4g}"),
        "cooldown_epochs": round(base.cooldown_epochs * share),
    }
    return {name: value for name, value in scaled.items() if name not in options.line and value != getattr(base, name)}


def _scaling_note(options: Options, scaled: Mapping[str, Value]) -> Iterable[str]:
    if scaled:
        base = Config(**options.file)  # type: ignore[arg-type]
        listed = ", ".join(f"{name} {getattr(base, name):g} -> {value:g}" for name, value in scaled.items())
        yield f"with --epochs {options.line['epochs']} in place of {base.epochs}: {listed}"


def _against_line(
    options: Options, line: Mapping[str, Value], strong: Mapping[str, Value], config: Config
) -> Iterable[str]:
    source = options.checkpoint
    differing = [name for name in line if name in strong and not _same(name, line[name], strong[name], config)]
    for name in differing:
        if name == "num_classes" and options.command.name == "eval":
            raise UserError(
                f"--num_classes {spelt(line[name])} contradicts {source}, which holds {spelt(strong[name])}: an "
                "evaluation never makes a new head; leave --num_classes out, classes are matched by name"
            )
        if name not in REFIT_KEYS:
            raise UserError(
                f"--{name} {_shown(name, line[name])} contradicts {source}, which holds {_shown(name, strong[name])}; "
                f"leave --{name} out"
            )
    if differing:
        yield f"{source} is adapted: " + ", ".join(
            f"{name} {_shown(name, line[name])} (the checkpoint has {_shown(name, strong[name])})" for name in differing
        )


def _against_file(
    options: Options, line: Mapping[str, Value], strong: Mapping[str, Value], config: Config
) -> Iterable[str]:
    differing = [
        name
        for name, value in options.file.items()
        if name in strong
        and name not in line
        and not _same(name, value, strong[name], config)
        and not (name == "num_classes" and value == 0)
    ]
    if differing:
        yield f"{options.checkpoint} overrides {options.path}: " + ", ".join(
            f"{name} {_shown(name, strong[name])} (not {_shown(name, options.file[name])})" for name in differing
        )


def _inherited(options: Options, held: Mapping[str, Value], values: Mapping[str, Value]) -> Iterable[str]:
    """What the checkpoint decided because nobody else did."""
    names = [name for name in held if name not in options.file and name not in options.line]
    listed = [f"{name} {_shown(name, values[name])}" for name in names if values[name] != KEYS[name].default]
    if listed:
        yield f"taken from {options.checkpoint}: {', '.join(listed)}"


def _channels_note(config: Config, values: Mapping[str, Value]) -> Iterable[str]:
    names = [name for name in ("mean", "std") if name not in values]
    if names and config.in_chans != 3:
        fitted = " and ".join(f"{name} {_shown(name, getattr(config, name))}" for name in names)
        yield f"in_chans {config.in_chans}: {fitted}, from the defaults for three channels"


def _without_effect(options: Options, config: Config) -> list[str]:
    """One line on the keys that change nothing, or none."""
    used, said = options.command.uses, {*options.line, *options.file}
    listed = [text for text in inactive_keys(config, options.line) if text.partition(" ")[0] in used & said]
    listed += [f"{name} ({options.command.name} does not use it)" for name in options.line if name not in used]
    return [f"without effect: {', '.join(listed)}"] if listed else []


def _shown(name: str, value: Value) -> str:
    """The value of a key as one writes it."""
    return spelt(KEYS[name].written(value))


def _same(name: str, one: Value, other: Value, config: Config) -> bool:
    """Whether two values of a key mean the same in `config`: 224 and 224 x 224, 0.5 and 0.5 for each channel."""
    if name == "val_seed" and config.val_num_samples == -1:  # nothing is drawn
        return True

    def spread(value: Value) -> object:
        if name == "val_seed":
            return config.seed if value == OF_SEED else value
        if name == "image_size" and isinstance(value, int):
            return (value, value)
        if isinstance(value, tuple) and len(value) == 1:
            return value * config.in_chans
        return value

    return spread(one) == spread(other)


def _config_of(saved: Saved) -> Config:
    try:
        return Config.from_dict(_with_split_seed(saved.content["config"]))
    except UserError as error:
        raise UserError(f"{saved.path}: its configuration cannot be used: {error}") from None


def _listed_changes(names: list[str], line: Mapping[str, Value], held: Config) -> str:
    return ", ".join(f"{name} {_shown(name, getattr(held, name))} -> {_shown(name, line[name])}" for name in names)


def _refuse(names: list[str], line: Mapping[str, Value], held: Config, saved: Saved) -> None:
    if names:
        listed = _listed_changes(names, line, held)
        raise UserError(
            f"the run of {saved.path} cannot be continued with {listed}: {REFUSED[names[0]]}; leave it out, or begin a "
            f"new run with --pretrained {saved.path}"
        )


def _changed(names: list[str], line: Mapping[str, Value], held: Config, saved: Saved) -> Iterable[str]:
    if names:
        listed = _listed_changes(names, line, held)
        another = "" if FREE.issuperset(names) else "; from there on, results differ from those of an unchanged run"
        yield f"changed from step {saved.step} on: {listed}{another}"


def _kept_against_file(options: Options, place: Mapping[str, Value], config: Config, saved: Saved) -> Iterable[str]:
    differing = [
        name
        for name, value in options.file.items()
        if name not in options.line
        and name not in place
        and name not in CHOICE
        and not _same(name, value, getattr(config, name), config)
        and (value or name not in OPEN)
    ]
    if differing:
        listed = ", ".join(
            f"{name} {_shown(name, getattr(config, name))} (not {_shown(name, options.file[name])})"
            for name in differing
        )
        yield f"{saved.path} overrides {options.path}: {listed}; the command line would override both"
