"""The commands as data: which options each has beside the configuration keys, and which keys it uses."""

from dataclasses import dataclass
from typing import Literal

from t2t_vit.config import KEYS, SECTIONS

DATASET_KEYS = frozenset(SECTIONS["Dataset"])
# What defines a model and its preprocessing: it travels with a checkpoint.
TRAVELLING_KEYS = frozenset(
    "arch num_classes image_size in_chans disable_approximate_gelu crop_pct mean std".split()  # noqa: SIM905
)
# Which images a checkpoint is measured on; train_dir, because a share of it may be kept for validation.
VALIDATION_KEYS = DATASET_KEYS - {"train_num_samples", "class_balance"} | {"seed"}
DEVICE_KEYS = frozenset({"device_id", "device_target", "amp_level", "pynative_mode", "kernels"})
TRAIN_KEYS = frozenset(KEYS) - {"file_format", "runtime"}
# When a run begins and ends, where its files go and what it is measured on: what a step costs does not depend on it.
RUN_KEYS = frozenset(SECTIONS["Callbacks setup"]) | frozenset({
    "pretrained", "resume", "exclude_epoch_state", "epochs", "start_epoch", "max_steps", "eval_every_epochs",
    "cooldown_epochs", "lr_scheduler", "lr_adjust", "lr_gamma", "min_lr", "warmup_length", "warmup_lr",
    "skipped_steps_limit", "device_num", "val_num_samples", "mixup_off_epoch", "crop_pct",
})  # fmt: skip
BENCH_KEYS = TRAIN_KEYS - RUN_KEYS
EVAL_KEYS = (
    TRAVELLING_KEYS
    | DEVICE_KEYS
    | VALIDATION_KEYS
    | {"pretrained", "batch_size", "num_parallel_workers", "device_num", "dataset_sink_mode"}
)


@dataclass(frozen=True)
class Extra:
    """An option of one command that is no configuration key."""

    name: str
    meaning: str
    metavar: str = ""  # empty: a flag, which takes no value
    short: str = ""  # another spelling, of a command that takes `several` words


CONFIG = Extra("config", "YAML file, or the name of a shipped one", "FILE")
CONFIG_PATH = Extra("config_path", "the same as --config", "FILE")
PRINT_CONFIG = Extra("print_config", "print the resolved configuration as YAML and end")
COMMON = (CONFIG, CONFIG_PATH, PRINT_CONFIG)
NATIVE = Extra("allow_native_code", "run an exported file that holds compiled code: only one that you trust")
INFER = (
    Extra("output", "file of the predictions (default: predictions.json, or of --format's ending)", "FILE"),
    Extra("format", "json, jsonl, csv or parquet (default: by the ending of the output, else json)", "NAME"),
    Extra(
        "top_k", "write that many classes an image, with names and probabilities (default: the best's number)", "INT"
    ),
    Extra("recursive", "search the folders below DATA, too"),
    Extra("list", "read paths of images from this file, one a line; -, here or as DATA, is standard input", "FILE"),
    Extra("null", "NUL ends a path of a list, as find -print0 writes them (also: -0)", short="-0"),
    Extra("errors", "write bad images with their reasons there (default: OUTPUT.errors.jsonl)", "FILE"),
    Extra("shard", "predict the I-th of every N images only: I/N, I from 1", "I/N"),
    NATIVE,
)
EXPORT = (
    Extra("output", "folder of the file (default: here)", "FOLDER"),
    Extra("precision", "fp32, fp16, or int8 by calibration on real images (default: fp32)", "NAME"),
    Extra("batch", "images that a call takes, exactly (default: any number)", "INT"),
    Extra("dynamic_size", "take images of any size; positions are stretched inside the graph"),
    Extra("preprocessing", "normalisation of the pixels: outside the file, or inside (default: outside)", "WHERE"),
    Extra("calibration", "images that int8 measures the ranges on (default: 200)", "INT"),
)


@dataclass(frozen=True)
class Command:
    """One command's line.

    `uses` are the configuration keys that change what it does; the others are accepted. `positional` says what a word
    without an option is: the `config`, the `data` that is worked on (there may be `several`), or nothing; `subjects`
    are the only words that it may be, where there are such. `aliases` pairs options of the command with the
    configuration keys that they set, `implied` keys with the one value that they take here, which may be left out.
    """

    name: str
    summary: str
    usage: str
    uses: frozenset[str]
    positional: Literal["config", "data", ""] = "config"
    several: bool = False
    trains: bool = False
    subjects: tuple[str, ...] = ()
    extras: tuple[Extra, ...] = COMMON
    aliases: tuple[tuple[str, str], ...] = ()
    implied: tuple[tuple[str, str], ...] = ()

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
            extras=(Extra("output", "write the results into this JSON file, too", "FILE"), NATIVE, *COMMON),
        ),
        Command(
            "infer",
            "predict the classes of image files",
            "t2t-vit infer DATA ... --checkpoint FILE [--arch ARCH] [--output FILE] [--KEY VALUE ...]",
            TRAVELLING_KEYS
            | DEVICE_KEYS - {"pynative_mode"}
            | {"pretrained", "batch_size", "num_parallel_workers", "runtime"},
            positional="data",
            several=True,
            extras=(*INFER, *COMMON),
            aliases=(("checkpoint", "pretrained"), ("workers", "num_parallel_workers")),
            implied=(("resume", "auto"),),
        ),
        Command(
            "export",
            "write a checkpoint as a file for another runtime",
            "t2t-vit export [CONFIG] --file_format FORMAT --pretrained CHECKPOINT [--arch ARCH] [--KEY VALUE ...]",
            TRAVELLING_KEYS | VALIDATION_KEYS | {"pretrained", "file_format"},
            extras=(*EXPORT, *COMMON),
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
            "bench",
            "measure the speed of the network, of a training step, or of reading the data",
            "t2t-vit bench model|step|data [--config FILE] [--rounds INT] [--output FILE.json] [--KEY VALUE ...]",
            BENCH_KEYS,
            positional="data",
            subjects=("model", "step", "data"),
            extras=(
                Extra("rounds", "how often everything is measured (default: 10)", "INT"),
                Extra("output", "write the numbers into this JSON file, too", "FILE"),
                *COMMON,
            ),
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


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("weights", "show what a file of weights holds, or convert it"),
        Tool("report", "make the report of a run again, from its logs"),
    )
}
