"""The commands as data: which options each has beside the configuration keys, and which keys it uses."""

from dataclasses import dataclass
from typing import Literal

from t2t_vit.config import KEYS, SECTIONS

DATASET_KEYS = frozenset(SECTIONS["Dataset"])
# What defines a model and its preprocessing: it travels with a checkpoint.
TRAVELLING_KEYS = frozenset(
    "arch num_classes image_size in_chans disable_approximate_gelu crop_pct mean std".split()  # noqa: SIM905
)
DEVICE_KEYS = frozenset({"device_id", "device_target", "amp_level", "pynative_mode"})
TRAIN_KEYS = frozenset(KEYS) - {"file_format"}
EVAL_KEYS = (
    TRAVELLING_KEYS
    | DEVICE_KEYS
    | (DATASET_KEYS - {"train_dir", "train_num_samples"})
    | {"pretrained", "batch_size", "num_parallel_workers", "seed", "device_num", "dataset_sink_mode"}
)


@dataclass(frozen=True)
class Extra:
    """An option of one command that is no configuration key."""

    name: str
    meaning: str
    metavar: str = ""  # empty: a flag, which takes no value


CONFIG = Extra("config", "YAML file, or the name of a shipped one", "FILE")
CONFIG_PATH = Extra("config_path", "the same as --config", "FILE")
PRINT_CONFIG = Extra("print_config", "print the resolved configuration as YAML and end")
COMMON = (CONFIG, CONFIG_PATH, PRINT_CONFIG)


@dataclass(frozen=True)
class Command:
    """One command's line.

    `uses` are the configuration keys that change what it does; the others are accepted. `positional` says what a word
    without an option is: the `config`, the `data` that is worked on, or nothing. `aliases` pairs options of the
    command with the configuration keys that they set.
    """

    name: str
    summary: str
    usage: str
    uses: frozenset[str]
    positional: Literal["config", "data", ""] = "config"
    trains: bool = False
    extras: tuple[Extra, ...] = COMMON
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all options, configuration keys first."""
        return (*KEYS, *dict(self.aliases), *(extra.name for extra in self.extras))

    def spelling(self, key: str) -> str:
        """The option of this command that sets a configuration key."""
        return next((alias for alias, set_key in self.aliases if set_key == key), key)


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train",
            "train a network",
            "t2t-vit train [CONFIG] [--KEY VALUE ...]",
            TRAIN_KEYS,
            trains=True,
        ),
        Command(
            "eval",
            "measure a checkpoint on the validation images",
            "t2t-vit eval [CONFIG] --pretrained CHECKPOINT [--KEY VALUE ...]",
            EVAL_KEYS,
            extras=(Extra("output", "write the results into this JSON file, too", "FILE"), *COMMON),
        ),
        Command(
            "infer",
            "predict the classes of image files",
            "t2t-vit infer DATA --checkpoint FILE [--arch ARCH] [--output FILE] [--KEY VALUE ...]",
            TRAVELLING_KEYS | DEVICE_KEYS - {"pynative_mode"} | {"pretrained", "batch_size"},
            positional="data",
            extras=(Extra("output", "JSON file of the predictions (default: predictions.json)", "FILE"), *COMMON),
            aliases=(("checkpoint", "pretrained"),),
        ),
        Command(
            "export",
            "write a checkpoint as a file for another runtime",
            "t2t-vit export [CONFIG] --file_format FORMAT --pretrained CHECKPOINT [--arch ARCH] [--KEY VALUE ...]",
            TRAVELLING_KEYS | DATASET_KEYS - {"train_dir", "train_num_samples"} | {"pretrained", "file_format"},
        ),
        Command(
            "show",
            "draw what a network sees of an image",
            "t2t-vit show IMAGE --checkpoint FILE [--output FILE] [--KEY VALUE ...]",
            TRAVELLING_KEYS | DEVICE_KEYS - {"pynative_mode"} | {"pretrained"},
            positional="data",
            extras=(Extra("output", "the picture (default: IMAGE_view.png, here)", "FILE"), CONFIG, CONFIG_PATH),
            aliases=(("checkpoint", "pretrained"),),
        ),
        Command(
            "models",
            "list the networks and what they cost",
            "t2t-vit models [--image_size INT [INT]] [--num_classes INT]",
            frozenset({"image_size", "num_classes"}),
            positional="",
            extras=(),
        ),
        Command(
            "quickstart",
            "train, evaluate, predict and export on embedded images, in minutes",
            "t2t-vit quickstart [--KEY VALUE ...]",
            TRAIN_KEYS,
            positional="",
            trains=True,
        ),
    )
}


@dataclass(frozen=True)
class Tool:
    """A command without configuration keys, whose module reads its line itself: `run(words)`."""

    name: str
    summary: str


TOOLS = {tool.name: tool for tool in (Tool("weights", "show what a file of weights holds, or convert it"),)}
