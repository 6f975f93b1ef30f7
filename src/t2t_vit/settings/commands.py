"""The commands as data: which options each has besides the configuration keys, and which keys it uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from t2t_vit.settings.schema import COUNT, KEYS, PATH, SECTIONS
from t2t_vit.settings.values import Allowed, Key, OneOf, Range, Value, Written

DATASET_KEYS = frozenset(SECTIONS["Dataset"])
# What defines a model and its preprocessing; stored in every checkpoint.
TRAVELLING_KEYS = frozenset(
    "arch num_classes image_size in_chans disable_approximate_gelu crop_pct mean std".split()  # noqa: SIM905
)
# Which images a checkpoint is evaluated on; train_dir, because a share of it may be used for validation.
VALIDATION_KEYS = DATASET_KEYS - {"train_num_samples", "class_balance"} | {"seed"}
DEVICE_KEYS = frozenset({"device_id", "device_target", "amp_level", "pynative_mode", "kernels"})
EXPORTED_KEYS = frozenset({"exported_seconds", "exported_memory"})
TRAIN_KEYS = frozenset(KEYS) - EXPORTED_KEYS - {"file_format", "runtime"}
# When a run begins and ends, where it writes and what it is evaluated on: no influence on the cost of a step.
RUN_KEYS = frozenset(SECTIONS["Callbacks setup"]) | frozenset({
    "pretrained", "resume", "exclude_epoch_state", "epochs", "start_epoch", "max_steps", "eval_every_epochs",
    "cooldown_epochs", "lr_scheduler", "lr_adjust", "lr_gamma", "lr_decay_share", "lr_decay_shape", "min_lr",
    "warmup_length", "warmup_lr",
    "skipped_steps_limit", "patience", "max_hours", "best_by", "device_num", "model_average", "average_epochs",
    "average_share", "crop_schedule",
    "val_num_samples", "val_seed", "mixup_off_epoch", "crop_pct",
})  # fmt: skip
# Of a step with a teacher, which needs classes that both know, `bench` measures the student's part.
TEACHER_KEYS = frozenset({"teacher", "distill", "distill_weight", "distill_temperature", "mix_token"})
BENCH_KEYS = TRAIN_KEYS - RUN_KEYS - TEACHER_KEYS
EVAL_KEYS = (
    TRAVELLING_KEYS
    | DEVICE_KEYS
    | VALIDATION_KEYS
    | EXPORTED_KEYS
    | {"pretrained", "batch_size", "num_parallel_workers", "device_num", "dataset_sink_mode"}
)


@dataclass(frozen=True)
class Extra(Key):
    """An option of one command that is not a configuration key."""

    metavar: str = ""  # empty: a flag, which takes no value
    short: str = ""  # another spelling
    repeats: bool = False  # each time adds a value, where others keep the last one


def flag(name: str, meaning: str, short: str = "") -> Extra:
    """An option that is there or not."""
    return Extra(name, bool, False, meaning, short=short)


def option(name: str, metavar: str, meaning: str, default: Value = "", allowed: Allowed | None = None) -> Extra:
    """An option with a value; in its `meaning`, {default} stands for the value that it has where it is left out."""
    return Extra(name, type(default), default, meaning.format(default=default), allowed, metavar)


DEVICE = option(
    "device",
    "DEVICE",
    "device to run on, in place of device_target and device_id: cpu, cuda, cuda:1, mps, xpu, or its index",
    allowed=Written(
        r"(?i:auto|cpu|mps|(cuda|gpu|npu|xpu)(:\d{1,9})?|\d{1,9})",
        "cpu, cuda (also for AMD), cuda:1, mps, xpu, auto or a number; several devices need one process "
        "each: scripts/run_distribute_train_gpu.sh CONFIG --device_ids 0,1 starts them",
    ),
)
UP_TO_100_000 = Range(1, 100_000)
CONFIG = option("config", "FILE", "YAML file, or the name of a shipped one", allowed=PATH)
CONFIG_PATH = option("config_path", "FILE", "the same as --config", allowed=PATH)
PRINT_CONFIG = flag("print_config", "print the resolved configuration as YAML and exit")
COMMON = (CONFIG, CONFIG_PATH, PRINT_CONFIG)
NATIVE = flag(
    "allow_native_code", "run an exported file that is a program (.pt2, AOTI, .engine); only for files that you trust"
)
RESULTS = option("output", "FILE", "also write the results to this JSON file", allowed=PATH)
PREVIEW = option(
    "preview",
    "FILE.png",
    "write an image that shows training images as the recipe augments and mixes them, and exit",
    allowed=PATH,
)
ANSWERS = option(
    "answers",
    "FILE.npy",
    "also write the answer to each image, so that compare can pair this run with another",
    allowed=PATH,
)
EVALUATION_REPORT = option(
    "report",
    "FILE.html",
    "also write a report: scores of each class, confusion matrix, worst mistakes and calibration",
    allowed=PATH,
)
INFER = (
    option(
        "output",
        "FILE",
        "file for the predictions (default: predictions.json, or with the ending of --format)",
        allowed=PATH,
    ),
    option("format", "NAME", "json, jsonl, csv or parquet (default: by the ending of --output, else json)"),
    option(
        "top_k",
        "INT",
        "write this many classes per image, with names and probabilities (default: only the index of the best)",
        0,
        COUNT,
    ),
    flag("recursive", "also search the folders below DATA"),
    option(
        "list",
        "FILE",
        "read image paths from this file, one per line; - (also as DATA) is standard input",
        allowed=PATH,
    ),
    flag("null", "paths of a list end with NUL, as find -print0 writes them (also: -0)", short="-0"),
    option(
        "errors",
        "FILE",
        "file that lists unreadable images, with reasons (default: OUTPUT.errors.jsonl)",
        allowed=PATH,
    ),
    flag(
        "spreadsheet",
        "write ' before CSV cells that a spreadsheet would run as a formula: those that begin with = + - @, tab or CR",
    ),
    option(
        "shard",
        "I/N",
        "predict only the I-th of every N images: I/N, I from 1",
        "1/1",
        Written(r"\d{1,18}/\d{1,18}", "I/N, as 1/4 for the first of every four images"),
    ),
    NATIVE,
)
EXPORT = (
    option("output", "FOLDER", "folder to write to (default: the current one)", ".", PATH),
    option(
        "precision",
        "NAME",
        "fp32, fp16, or int8 by calibration on real images (default: {default})",
        "fp32",
        OneOf(("fp32", "fp16", "int8")),
    ),
    option("batch", "INT", "fixed number of images per call (default: any number)", 0, UP_TO_100_000),
    flag("dynamic_size", "accept images of any size; the graph resizes the position embedding"),
    option(
        "preprocessing",
        "WHERE",
        "whether pixels are normalised outside the exported file, or inside (default: {default})",
        "outside",
        OneOf(("inside", "outside")),
    ),
    option("calibration", "INT", "number of images for int8 calibration (default: {default})", 200, UP_TO_100_000),
)
SWEEP = (
    Extra(
        "over",
        str,
        "",
        "key to vary, and its values: KEY=V1,V2,... (KEY=V1;V2 where one has a comma) or KEY=LOW..HIGH, with :log by "
        "their logarithm; may be repeated",
        metavar="KEY=VALUES",
        repeats=True,
    ),
    option(
        "trials",
        "INT",
        "number of combinations to try, drawn by TPE, no combination twice (default: all of them, if every --over is a "
        "list or a range of whole numbers)",
        0,
        UP_TO_100_000,
    ),
    option("jobs", "INT", "number of runs at a time (default: {default})", 1, Range(1, 1000)),
    option(
        "seeds", "INT", "number of seeds that each combination is averaged over (default: {default})", 1, Range(1, 1000)
    ),
    option(
        "prune",
        "NAME",
        "stop trials that are worse than others at the same epoch: median, hyperband, or none (default: {default})",
        "median",
        OneOf(("median", "hyperband", "none")),
    ),
    option("folder", "FOLDER", "folder of the sweep (default: runs/sweeps/ARCH)", allowed=PATH),
    flag("json", "print one JSON object in place of the table"),
)
WEIGHTS = (
    option(
        "format",
        "FORMAT",
        "format to write: mindspore, safetensors or torch; by default decided by the file name: .ckpt MindSpore, "
        ".safetensors, .pth .pt .tar .bin torch",
    ),
    option(
        "which",
        "COPY",
        "ema or raw, if the file holds averaged (EMA) and raw weights (default: the better)",
        "auto",
        OneOf(("auto", "ema", "raw")),
    ),
)


@dataclass(frozen=True, eq=False)
class Command:
    """One command and its options.

    uses         configuration keys that change what it does; it accepts the others, too, unless it uses none
    positional   what a word without an option is: the `config`, the `data` that is worked on, or nothing
    needs        what `data` is
    several      whether there may be any number of such words
    subjects     the only first words that there may be, with the words that have to follow each
    trains       whether it is a training
    extras       options that are no configuration keys
    aliases      other names of configuration keys
    meanings     what configuration keys mean to this command, where it is something else
    implied      values of keys whose value may be left out, and which then have no other
    details      paragraphs of the help, besides the summary
    """

    name: str
    summary: str
    usage: str
    uses: frozenset[str] = frozenset()
    positional: Literal["config", "data", ""] = "config"
    needs: str = "an image file or a folder of images"
    several: bool = False
    subjects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trains: bool = False
    extras: tuple[Extra, ...] = COMMON
    aliases: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    implied: Mapping[str, str] = field(default_factory=dict)
    details: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The configuration keys that are options of this command."""
        return tuple(KEYS) if self.uses else ()

    @property
    def options(self) -> dict[str, Key]:
        """All options by name, configuration keys first."""
        return (
            {name: KEYS[name] for name in self.keys}
            | {alias: KEYS[name] for alias, name in self.aliases.items()}
            | ({DEVICE.name: DEVICE} if self.keys else {})
            | {extra.name: extra for extra in self.extras}
        )

    def spelling(self, key: str) -> str:
        """The option of this command that sets a configuration key."""
        return next((alias for alias, set_key in self.aliases.items() if set_key == key), key)


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train",
            "train a network",
            "t2t-vit train [CONFIG] [--KEY VALUE ...]",
            TRAIN_KEYS,
            trains=True,
            extras=(PREVIEW, *COMMON),
        ),
        Command(
            "eval",
            "measure a checkpoint on the validation images",
            "t2t-vit eval [CONFIG] --pretrained CHECKPOINT [--KEY VALUE ...]",
            EVAL_KEYS,
            extras=(RESULTS, EVALUATION_REPORT, ANSWERS, NATIVE, *COMMON),
        ),
        Command(
            "infer",
            "predict the classes of image files",
            "t2t-vit infer DATA ... --checkpoint FILE [--arch ARCH] [--output FILE] [--KEY VALUE ...]",
            TRAVELLING_KEYS
            | DEVICE_KEYS - {"pynative_mode"}
            | EXPORTED_KEYS
            | {"pretrained", "batch_size", "num_parallel_workers", "max_pixels", "runtime", "resume"},
            positional="data",
            several=True,
            extras=(*INFER, *COMMON),
            aliases={"checkpoint": "pretrained", "workers": "num_parallel_workers"},
            meanings={"resume": "without a value: continue an interrupted run of the same command"},
            implied={"resume": "auto"},
        ),
        Command(
            "export",
            "write a checkpoint as a file for another runtime",
            "t2t-vit export [CONFIG] --file_format FORMAT --pretrained CHECKPOINT [--arch ARCH] [--KEY VALUE ...]",
            TRAVELLING_KEYS | VALIDATION_KEYS | EXPORTED_KEYS | {"pretrained", "file_format"},
            extras=(*EXPORT, *COMMON),
        ),
        Command(
            "show",
            "draw what a network sees in an image",
            "t2t-vit show IMAGE --checkpoint FILE [--output FILE] [--KEY VALUE ...]",
            TRAVELLING_KEYS | DEVICE_KEYS - {"pynative_mode"} | {"pretrained", "max_pixels"},
            positional="data",
            extras=(
                option(
                    "output",
                    "FILE",
                    "file for the figure (default: IMAGE_view.png in the current folder)",
                    allowed=PATH,
                ),
                CONFIG,
                CONFIG_PATH,
            ),
            aliases={"checkpoint": "pretrained"},
        ),
        Command(
            "bench",
            "measure the speed of the network, of a training step, or of reading the data",
            "t2t-vit bench model|step|data [--config FILE] [--rounds INT] [--output FILE.json] [--KEY VALUE ...]",
            BENCH_KEYS,
            positional="data",
            subjects={"model": (), "step": (), "data": ()},
            extras=(
                option("rounds", "INT", "number of measurements (default: {default})", 10, UP_TO_100_000),
                option("output", "FILE", "also write the numbers to this JSON file", allowed=PATH),
                flag("step", "for data: also measure a training step and compare (compiling it may take minutes)"),
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
            "sweep",
            "train with several values of some keys, and say which are best",
            "t2t-vit sweep [CONFIG] --over KEY=V1,V2,... [--over KEY=LOW..HIGH[:log]] [--trials INT] [--KEY VALUE ...]",
            TRAIN_KEYS - {"resume", "exclude_epoch_state"},
            trains=True,
            extras=(*SWEEP, *COMMON),
            details="Each trial is a t2t-vit train process in folders of its own. The same command continues a sweep "
            "that was stopped or killed, and two of them in one folder share the work. Trials are ranked by best_by.",
        ),
        Command(
            "quickstart",
            "train, evaluate, predict and export on embedded images, in minutes",
            "t2t-vit quickstart [--KEY VALUE ...]",
            TRAIN_KEYS,
            positional="",
            trains=True,
        ),
        Command(
            "doctor",
            "show what this machine has: versions, processor, devices, memory",
            "t2t-vit doctor [--json]",
            positional="",
            extras=(flag("json", "print one JSON object instead of tables"),),
            details="Include its output in a bug report. It contains no paths, no names of users or machines, and no "
            "environment variables.",
        ),
        Command(
            "weights",
            "show the contents of a weights file, or convert it",
            "t2t-vit weights show FILE [--which ema|raw]\n"
            "t2t-vit weights convert FILE NEW_FILE [--format mindspore|safetensors|torch] [--which ema|raw]",
            positional="data",
            subjects={"show": ("FILE",), "convert": ("FILE", "NEW_FILE")},
            extras=WEIGHTS,
            details="show lists what FILE holds. convert writes its weights, bit for bit, to NEW_FILE, which is "
            "replaced if it exists.\n\n"
            "FILE is a checkpoint of t2t-vit, of the authors, mmpretrain or timm, any state dict of a T2T-ViT, "
            "safetensors, a MindSpore .ckpt or a folder with model.safetensors; its kind is recognised by its content. "
            "FILE may also be the name of a network: its released weights are then downloaded once.",
        ),
        Command(
            "report",
            "write the report of a run again, from its logs",
            "t2t-vit report RUN_FOLDER [--output FILE]",
            positional="data",
            needs="RUN_FOLDER, the logs folder of a run, such as runs/logs/t2t_vit_14",
            extras=(option("output", "FILE", "the report (default: report.html in RUN_FOLDER)", allowed=PATH),),
            details="The report is one HTML file that works offline. Training writes it when it ends; this command "
            "writes it again, or for the first time if the run was killed.\n\n"
            "RUN_FOLDER is the logs folder of the run, such as runs/logs/t2t_vit_14, one of its checkpoints, or the "
            "folder of its checkpoints.",
        ),
        Command(
            "compare",
            "say which of several runs is better, and how sure that is",
            "t2t-vit compare RUN RUN ... [--output FILE.html] [--json]",
            positional="data",
            needs="RUN RUN ..., the logs folders of two runs or more, such as runs/logs/t2t_vit_14",
            several=True,
            extras=(
                option("output", "FILE.html", "the page (default: {default})", "comparison.html", PATH),
                flag("json", "print one JSON object in place of the table"),
            ),
            details="RUN is the logs folder of a run, one of its checkpoints, or the folder of its checkpoints. Each "
            "run is compared with the first: on the same validation images and, if there are several seeds, "
            "by the seeds. Runs that differ only in the seed form one group.\n\n"
            "The page is one HTML file that works offline: curves, cost, accuracy by class, and the keys that differ.",
        ),
    )
}
