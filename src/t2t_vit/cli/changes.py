"""A stopped run's configuration and what the user says now -> the configuration it goes on with.

The line wins over the checkpoint, and the checkpoint over the file. `REFUSED` are keys whose change would give the
state in the checkpoint another meaning; `FREE` ones change where and how the run is made, but no number of it; all
others may change, and the run from there on is another one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from t2t_vit.cli.options import Options
from t2t_vit.cli.resolve import same, shown, without_effect
from t2t_vit.config import KEYS, Config
from t2t_vit.config_rules import fit_channels, validate, validate_training
from t2t_vit.config_values import Value
from t2t_vit.errors import UserError
from t2t_vit.weights import SavedRun

_NETWORK = "its weights would be those of another network"
_OPTIMIZER = "the optimizer's state belongs to the old one"
_IMAGES = "its steps, epochs and best lists count the old images"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("arch", "in_chans", "image_size", "num_classes", "disable_approximate_gelu"), _NETWORK),
    **dict.fromkeys(("optimizer", "layer_decay", "freeze"), _OPTIMIZER),
    **dict.fromkeys(("dataset", "train_num_samples", "val_num_samples", "val_split", "class_balance"), _IMAGES),
    "seed": "every random number, and the order of the images, would be another",
    "with_ema": "an average knows all weights since the first step",
    "start_epoch": "a continued run knows its own epoch",
}
FREE = frozenset(
    "data_url train_dir val_dir num_parallel_workers cache dataset_sink_mode max_steps skipped_steps_limit file_format "  # noqa: SIM905
    "runtime device_id device_num summary_root_dir ckpt_root_dir best_ckpt_root_dir logs_root_dir ckpt_keep_num "
    "best_ckpt_num ckpt_save_every_step ckpt_save_every_seconds print_loss_every summary_loss_collect_freq "
    "model_postfix collect_input_data dump_graph tracker resume pretrained exclude_epoch_state".split()
)
# They say which run to continue, and are no part of it.
CHOICE = frozenset({"resume", "pretrained", "exclude_epoch_state"})


def continued(options: Options, saved: SavedRun, place: Mapping[str, Value] | None = None) -> tuple[Config, list[str]]:
    """The configuration that the run of `saved` goes on with, and what to say of it, one line each.

    Args:
        place: keys of the folder that the checkpoint was found in, which may have been moved since.

    Raises:
        UserError: a change that would give the state another meaning, or keys that contradict each other.
    """
    held = _held(saved)
    line = {
        name: value
        for name, value in options.line.items()
        # Zero classes are as many as there are, and epoch zero is no wish to begin anywhere else.
        if name not in CHOICE and (value or name not in ("num_classes", "start_epoch"))
    }
    values: dict[str, Any] = {name: getattr(held, name) for name in KEYS} | line | dict(place or {})
    config = replace(fit_channels(Config(**values), line), resume="")
    changed = [name for name in line if not same(name, line[name], getattr(held, name), config)]
    _refuse([name for name in changed if name in REFUSED], line, held, saved)
    notes = [*_listed(changed, line, held, saved), *_against_file(options, line, place or {}, config, saved)]
    validate(config)
    validate_training(config)
    return config, notes + without_effect(replace(options, file={}), config, None)


def _held(saved: SavedRun) -> Config:
    try:
        return Config.from_dict(saved.content["config"])
    except UserError as error:
        raise UserError(f"{saved.path}: the configuration that it holds cannot be used: {error}") from None


def _refuse(names: list[str], line: Mapping[str, Value], held: Config, saved: SavedRun) -> None:
    if names:
        told = ", ".join(f"{name} {shown(getattr(held, name))} -> {shown(line[name])}" for name in names)
        raise UserError(
            f"the run of {saved.path} cannot be continued with {told}: {REFUSED[names[0]]}; leave it out, or begin a "
            f"new run with --pretrained {saved.path}"
        )


def _listed(names: list[str], line: Mapping[str, Value], held: Config, saved: SavedRun) -> Iterable[str]:
    if names:
        told = ", ".join(f"{name} {shown(getattr(held, name))} -> {shown(line[name])}" for name in names)
        another = "" if FREE.issuperset(names) else "; what follows is not what the run as it was begun would have been"
        yield f"changed from step {saved.step} on: {told}{another}"


def _against_file(
    options: Options, line: Mapping[str, Value], place: Mapping[str, Value], config: Config, saved: SavedRun
) -> Iterable[str]:
    differing = [
        name
        for name, value in options.file.items()
        if name not in line
        and name not in place
        and name not in CHOICE
        and not same(name, value, getattr(config, name), config)
        and (value or name not in ("num_classes", "start_epoch"))
    ]
    if differing:
        told = ", ".join(
            f"{name} {shown(getattr(config, name))} (not {shown(options.file[name])})" for name in differing
        )
        yield f"{saved.path} wins over {options.path}: {told}; what is on the line would win over both"
