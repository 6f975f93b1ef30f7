"""Who wins: the line, then the checkpoint, then the configuration file, then the defaults; and what to say of it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from t2t_vit.cli.commands import TRAVELLING_KEYS, VALIDATION_KEYS
from t2t_vit.cli.options import Options
from t2t_vit.config import KEYS, Config, checked
from t2t_vit.config_rules import fit_channels, inactive_keys, remarks, validate, validate_training
from t2t_vit.config_values import Value, default_of
from t2t_vit.errors import UserError

# The network itself: training from a checkpoint keeps it, whatever the file says.
NETWORK_KEYS = frozenset({"arch", "in_chans", "disable_approximate_gelu"})
# Keys of the line that may differ from the checkpoint, which is then fitted to them.
REFIT_KEYS = frozenset({"num_classes", "image_size", "crop_pct"})


def resolve(
    options: Options, checkpoint: Mapping[str, Any] | None = None, device_type: str | None = None
) -> tuple[Config, list[str]]:
    """Bring line, checkpoint, file and defaults together.

    What defines the model and its preprocessing travels with a checkpoint and beats the file. In training only the
    network does (`arch`, `in_chans`, `disable_approximate_gelu`): the rest is the file's business, and the
    checkpoint's where the file is silent. So are, in eval and export, the keys of the data set.

    Args:
        checkpoint: configuration that the checkpoint holds, whole or in part (of foreign weights what their tensors
            tell); keys that do not travel are left aside.
        device_type: `torch.device.type`, where it is known already; `cpu` makes the keys of accelerators inactive.

    Returns:
        The configuration, and notes for standard error, one line each.

    Raises:
        UserError: the line contradicts the checkpoint, or keys contradict each other.
    """
    held = _held(options, checkpoint or {})
    strong = {name: value for name, value in held.items() if name in _strong_keys(options)}
    weak = {name: value for name, value in held.items() if name not in strong}
    # Zero classes on the line means: as many as there are, which the checkpoint knows.
    line = {name: value for name, value in options.line.items() if name != "num_classes" or value or name not in strong}
    values: dict[str, Any] = {**weak, **options.file, **strong, **line}
    config = fit_channels(Config(**values), values)
    notes = [
        *_against_line(line, strong, config, options.checkpoint),
        *_against_file(options, line, strong, config),
        *_inherited(options, held if options.command.trains else weak, values),
        *_channels_note(config, values),
    ]
    validate(config)
    if options.command.trains:
        validate_training(config)
        notes += remarks(config)
    return config, notes + without_effect(options, config, device_type)


def _strong_keys(options: Options) -> frozenset[str]:
    return NETWORK_KEYS if options.command.trains else TRAVELLING_KEYS


def _held(options: Options, checkpoint: Mapping[str, Any]) -> dict[str, Value]:
    """The keys of the checkpoint that matter to the command."""
    names = set(TRAVELLING_KEYS)
    if options.command.trains:
        names -= {"num_classes"}
    elif "val_dir" in options.command.uses and not _other_dataset(options, checkpoint):
        names |= VALIDATION_KEYS
    try:
        return {name: checked(name, checkpoint[name]) for name in KEYS if name in names and name in checkpoint}
    except UserError as error:
        raise UserError(f"{options.checkpoint}: the configuration that it holds is damaged: {error}") from None


def _other_dataset(options: Options, checkpoint: Mapping[str, Any]) -> bool:
    """Whether line or file name another data set than the checkpoint's, whose folders then mean nothing."""
    named = options.line.get("dataset", options.file.get("dataset"))
    return named is not None and named != checkpoint.get("dataset")


def _against_line(line: Mapping[str, Value], strong: Mapping[str, Value], config: Config, source: str) -> Iterable[str]:
    differing = [name for name in line if name in strong and not same(name, line[name], strong[name], config)]
    for name in differing:
        if name not in REFIT_KEYS:
            raise UserError(
                f"--{name} {shown(line[name])} contradicts {source}, which holds {shown(strong[name])}; "
                f"leave --{name} out"
            )
    if differing:
        yield f"{source} is re-fitted: " + ", ".join(
            f"{name} {shown(line[name])} (it holds {shown(strong[name])})" for name in differing
        )


def _against_file(
    options: Options, line: Mapping[str, Value], strong: Mapping[str, Value], config: Config
) -> Iterable[str]:
    differing = [
        name
        for name, value in options.file.items()
        if name in strong
        and name not in line
        and not same(name, value, strong[name], config)
        and not (name == "num_classes" and value == 0)
    ]
    if differing:
        yield f"{options.checkpoint} wins over {options.path}: " + ", ".join(
            f"{name} {shown(strong[name])} (not {shown(options.file[name])})" for name in differing
        )


def _inherited(options: Options, held: Mapping[str, Value], values: Mapping[str, Value]) -> Iterable[str]:
    """What the checkpoint decided because nobody else did."""
    names = [name for name in held if name not in options.file and name not in options.line]
    told = [f"{name} {shown(values[name])}" for name in names if values[name] != default_of(KEYS[name])]
    if told:
        yield f"taken from {options.checkpoint}: {', '.join(told)}"


def _channels_note(config: Config, values: Mapping[str, Value]) -> Iterable[str]:
    names = [name for name in ("mean", "std") if name not in values]
    if names and config.in_chans != 3:
        fitted = " and ".join(f"{name} {shown(getattr(config, name))}" for name in names)
        yield f"in_chans {config.in_chans}: {fitted}, from the defaults of three colours"


def without_effect(options: Options, config: Config, device_type: str | None) -> list[str]:
    """One line on the keys that change nothing, or none."""
    ruled = replace(config, device_target="CPU") if device_type == "cpu" else config
    used, said = options.command.uses, {*options.line, *options.file}
    told = [text for text in inactive_keys(ruled, options.line) if text.partition(" ")[0] in used & said]
    told += [f"{name} ({options.command.name} does not use it)" for name in options.line if name not in used]
    return [f"without effect: {', '.join(told)}"] if told else []


def same(name: str, one: Value, other: Value, config: Config) -> bool:
    """Whether two values of a key mean the same in `config`: 224 and 224 x 224, 0.5 and 0.5 for each channel."""

    def spread(value: Value) -> object:
        if name == "image_size" and isinstance(value, int):
            return (value, value)
        if isinstance(value, tuple) and len(value) == 1:
            return value * config.in_chans
        return value

    return spread(one) == spread(other)


def shown(value: Value) -> str:
    """A value as it is written on the line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
