"""The preset `scratch`: the images and the machine -> network, size, epochs, batch, augmentation and workers.

`choose` is the table, a pure function; `prepared` looks at the images and the machine for it. What is chosen takes the
place of keys of the file, so that the command line wins, and the whole configuration goes into run.json and every
checkpoint: a continued run repeats it without choosing again.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from t2t_vit.assembly import build
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.folder import Files
from t2t_vit.data.images import ImageSet
from t2t_vit.data.memory import shown_bytes
from t2t_vit.errors import UserError
from t2t_vit.model.cost import Cost, count_cost
from t2t_vit.notes import counted, silent
from t2t_vit.platforms import machine_memory, usable_cores
from t2t_vit.precision import choose_device
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import SHIPPED
from t2t_vit.settings.schema import KEYS, Config
from t2t_vit.settings.values import ImageSize, Value
from t2t_vit.training.distributed import from_environment
from t2t_vit.variants import find_variant

PRESET = "scratch"
# Recipes that need weights to start from, and those that are for neither ImageNet nor its size.
FROM_WEIGHTS = ("finetune", "finetune_384")
OF_SMALL_IMAGES = ("quickstart", "t2t_vit_s_6_cifar10", "t2t_vit_s_6_fashion_mnist")
OF_ANY_SIZE = (PRESET, "t2t_vit_19_cifar", *OF_SMALL_IMAGES, *FROM_WEIGHTS)

LOOKED_AT = 256  # images whose headers are read, evenly spread
LOOKED_INTO = 32  # images whose colours are looked at
LARGEST_LOOKED_INTO = 4_000_000  # pixels: a larger one takes too long to decode for that
FEWEST, MOST = 100, 50_000  # images that the table is made for
SMALL = 48  # pixels of the shorter side below which tokens of 16 pixels are too coarse

SEEN = 200_000  # images that a small network sees until it learns little more, counted over all epochs
EPOCHS = (15, 300)
# Multiply-adds a second that a training step reaches, forward and backward together: on each core of a recent server,
# and on a recent GPU. Real machines differ by a factor of two or three: it decides what `about` minutes are.
SPEED = {"cpu": 25e9, "cuda": 2e13}
SPEED_ELSEWHERE = 5e12
SHARE_OF_MEMORY = 0.25  # of the device, for what a step keeps; workspaces and other programs take the rest
SHARE_OF_TIME = 0.8  # of the time limit that is planned for; evaluations and the start take the rest


@dataclass(frozen=True)
class Facts:
    """What the table knows of the training images.

    side   median of the shorter sides, in pixels
    grey   no image that was looked into has colours
    """

    images: int
    classes: int
    side: int
    grey: bool


@dataclass(frozen=True)
class Machine:
    """What the table knows of the machine.

    kind        `torch.device.type`
    memory      bytes of the device: of an accelerator its own, else the machine's
    processes   that share an update
    hours       time limit of the run; 0 where there is none
    """

    kind: str
    cores: int
    memory: int
    processes: int = 1
    hours: float = 0.0


@dataclass(frozen=True)
class Choice:
    """Keys with the values that were chosen for them, and why."""

    values: dict[str, Value]
    reason: str


def prepared(options: Options) -> tuple[Options, list[str]]:
    """`options` with what `scratch` chooses in the place of its file's keys, and the lines that say so.

    Of other recipes nothing is changed; one that is made for another machine is named in a line.

    Raises:
        UserError: no weights where the recipe needs some, weights where it takes none, or data that cannot be read.
    """
    recipe = _recipe(options.path)
    if recipe in FROM_WEIGHTS and not options.checkpoint and "arch" not in options.line:
        raise UserError(
            f"{recipe} starts from weights, but none are given; give them with --pretrained FILE, or train without "
            f"weights: t2t-vit train {PRESET}{_same_data(options)}"
        )
    if recipe != PRESET:
        return options, _made_for(recipe, options)
    if options.checkpoint:
        raise UserError(
            f"{PRESET} starts without weights; to start from {options.checkpoint}: "
            f"t2t-vit train finetune{_same_data(options)} --pretrained {options.checkpoint}"
        )
    config = Config(**{**options.file, **options.line})  # type: ignore[arg-type]
    if config.dataset == "ImageNet" and not config.data_url:
        if config.resume == "auto":  # the run to continue knows its images
            return options, []
        raise UserError(
            f"{PRESET} looks at the images before it chooses the settings; give their folder with --data_url FOLDER"
        )
    facts, machine = look(config), _machine(config, float(str(options.said("max_hours", 0.0))))
    chosen: dict[str, Value] = {}
    lines = [f"{PRESET}: {_summary(facts, machine)}"]
    for choice in choose(facts, machine, options.line):
        new = {name: value for name, value in choice.values.items() if name not in options.line}
        chosen |= new
        if new:
            listed = ", ".join(f"{name} {_shown(value)}" for name, value in new.items())
            lines.append(f"  {listed}: {choice.reason}")
    kept = [name for name in options.line if name in chosen_keys() and name not in chosen]
    if kept:
        lines.append("  as given: " + ", ".join(f"{n} {_shown(KEYS[n].written(options.line[n]))}" for n in kept))
    # `epochs` of the command line is the recipe's own here: its warm-up was chosen for it and is not scaled again.
    file = {**options.file, **chosen} | {name: options.line[name] for name in ("epochs",) if name in options.line}
    if find_variant(str({**file, **options.line}["arch"])).tokens != "performer":
        file.pop("performer_drop", None)  # it is the file's own network that has one
    return replace(options, file=file), lines


def choose(facts: Facts, machine: Machine, given: Mapping[str, Value] = MappingProxyType({})) -> list[Choice]:
    """The table: what suits such images on such a machine.

    Args:
        given: keys that are decided already, which the others follow.
    """
    network = _network(facts, machine)
    decided = {**network.values, **given}
    cost = _cost(str(decided["arch"]), decided["image_size"], max(2, facts.classes))
    batch = _batch(facts, machine, cost)
    epochs = _epochs(facts, machine, cost, decided)
    length = int(str(given.get("epochs", epochs.values["epochs"])))
    return [
        *_channels(facts),
        network,
        batch,
        epochs,
        _rhythm(length),
        _augmentation(facts, length),
        _workers(machine),
    ]


def chosen_keys() -> frozenset[str]:
    """The keys that `choose` may decide."""
    some = choose(Facts(1000, 10, 100, grey=True), Machine("cpu", 2, 2**33))
    return frozenset(name for choice in some for name in choice.values)


def look(config: Config) -> Facts:
    """The training images as far as the table needs them: all names, some headers, a few of them decoded."""
    images, _ = build.training_images(config, silent)
    files, sides, grey = Files.of(images), [], True
    for index in _spread(len(images), LOOKED_AT):
        size = _size(images, files, index)
        if size is not None:
            sides.append(min(size))
    for index in _spread(len(images), LOOKED_INTO):
        size = _size(images, files, index)
        if size is not None and math.prod(size) <= LARGEST_LOOKED_INTO:
            grey = grey and _is_grey(images, index)
    return Facts(len(images), len(images.classes), int(np.median(sides)) if sides else 0, grey and bool(sides))


def _network(facts: Facts, machine: Machine) -> Choice:
    """Network and size of the images: on a CPU what learns most in minutes, on an accelerator by the images."""
    side = facts.side
    if 0 < side < SMALL:
        return Choice(
            {"arch": "t2t_vit_s_4", "image_size": 32}, f"its tokens are small enough for images of {side} pixels"
        )
    if machine.kind == "cpu":
        return Choice(
            {"arch": "t2t_vit_4", "image_size": 64},
            "4 blocks and small images train fast, so each image is seen more often",
        )
    largest = 224 if side >= 160 else 128 if side >= 96 else 64
    if facts.images >= 20_000 and largest == 224:
        return Choice(
            {"arch": "t2t_vit_14", "image_size": 224}, f"{facts.images:,} images are enough for 21 million parameters"
        )
    size = min(largest, 160 if facts.images >= 5_000 else 128)
    return Choice({"arch": "t2t_vit_7", "image_size": size}, f"a larger network would memorise {facts.images:,} images")


def _batch(facts: Facts, machine: Machine, cost: Cost) -> Choice:
    """Images of an update: few for few images, so that an epoch has many; what keeps an accelerator busy for many."""
    whole = 64 if machine.kind == "cpu" or facts.images < 10_000 else 256
    whole = max(8, min(whole, 2 ** int(math.log2(max(8, facts.images / 10)))))
    each = max(1, whole // machine.processes)
    fitting = max(1, int(SHARE_OF_MEMORY * machine.memory / max(1, cost.saved_bytes)))
    why = f"about {counted(max(1, facts.images // (each * machine.processes)), 'update')} per epoch"
    if each > fitting:
        each = 2 ** int(math.log2(fitting))
        why = f"more may not fit into {shown_bytes(machine.memory)}"
    return Choice({"batch_size": each}, why + (f"; on each of {machine.processes}" if machine.processes > 1 else ""))


def _epochs(facts: Facts, machine: Machine, cost: Cost, decided: dict[str, Value]) -> Choice:
    """How often each image is seen: until little more is learned, or as often as the time allows."""
    low, high = EPOCHS
    wanted = max(low, min(high, round(SEEN / max(1, facts.images))))
    seconds = _seconds(facts, machine, cost)
    if machine.hours > 0:
        allowed = int(SHARE_OF_TIME * machine.hours * 3600 / seconds)
        epochs = max(1, min(high, allowed))
        return Choice(
            {"epochs": epochs},
            f"fits into {counted(machine.hours, 'hour')}, at {_duration(seconds)} per epoch",
        )
    epochs = int(str(decided.get("epochs", wanted)))
    return Choice(
        {"epochs": wanted},
        f"{wanted * facts.images:,} images in all; {_duration(epochs * seconds)} on a machine like this; "
        "--max_hours H sets a limit",
    )


def _rhythm(epochs: int) -> Choice:
    """Warm-up, and how often is evaluated."""
    warmup = 0.05 * epochs
    share = "half an epoch" if warmup <= 0.5 else "5 epochs" if warmup >= 5 else "a twentieth of the run"
    return Choice(
        {"warmup_length": round(min(5.0, max(0.5, warmup)), 2), "eval_every_epochs": max(1, epochs // 10)},
        f"{share}; about ten evaluations cost little time",
    )


def _augmentation(facts: Facts, epochs: int) -> Choice:
    """How much an image is changed each time: the more often it is seen, the more."""
    if epochs <= 60:
        return Choice({"min_crop": 0.5}, f"in {counted(epochs, 'epoch')} light crops and flips are enough")
    return Choice(
        {"min_crop": 0.35, "re_prob": 0.1, "drop_path": 0.1},
        f"{facts.images:,} images are seen {epochs} times: crops, erasing and drop path vary them",
    )


def _channels(facts: Facts) -> list[Choice]:
    return [Choice({"in_chans": 1}, "the images have no colour")] if facts.grey else []


def _workers(machine: Machine) -> Choice:
    if machine.kind == "cpu":
        count = min(4, machine.cores // 4)
        why = "decoded images stay in memory, so the network gets the cores"
    else:
        count = min(8, max(1, machine.cores - 1))
        why = "the accelerator should not wait for images"
    return Choice({"num_parallel_workers": count}, f"{why} ({counted(machine.cores, 'core')})")


def _seconds(facts: Facts, machine: Machine, cost: Cost) -> float:
    """About how long an epoch takes."""
    speed = SPEED.get(machine.kind, SPEED_ELSEWHERE) * (machine.cores if machine.kind == "cpu" else machine.processes)
    return max(1e-3, 3 * cost.macs * facts.images / speed)


@cache
def _cost(arch: str, image_size: ImageSize, classes: int) -> Cost:
    return count_cost(arch, image_size, classes)


def _machine(config: Config, hours: float) -> Machine:
    device = choose_device(config.device_target, config.device_id, required=False)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine_memory()
    return Machine(device.type, usable_cores(), memory, from_environment().count, hours)


def _recipe(path: Path | None) -> str:
    """The name of a shipped recipe; empty for a file of the user's."""
    return path.stem if path is not None and path.resolve().parent == SHIPPED.resolve() else ""


def _made_for(recipe: str, options: Options) -> list[str]:
    """What to say of a recipe for ImageNet where there is only a CPU; nothing elsewhere, or where it only continues."""
    if not recipe or recipe in OF_ANY_SIZE:
        return []
    config = Config(**{**options.file, **options.line})  # type: ignore[arg-type]
    if config.resume or choose_device(config.device_target, config.device_id, required=False).type != "cpu":
        return []
    return [
        f"{recipe} is for ImageNet on 8 GPUs, {options.file['epochs']} epochs; for your own images on a "
        f"CPU: t2t-vit train {PRESET}{_same_data(options)}"
    ]


def _same_data(options: Options) -> str:
    """The option that names the same data, as it would be typed."""
    data = str(options.said("data_url", ""))
    return f" --data_url {shlex.quote(data)}" if data else " --data_url FOLDER"


def _summary(facts: Facts, machine: Machine) -> str:
    few = f"; fewer than {FEWEST}: expect low accuracy" if facts.images < FEWEST else ""
    many = f"; more than {MOST:,}: the recipe of a larger network may be more accurate" if facts.images > MOST else ""
    colours = "grey" if facts.grey else "in colour"
    limit = f", {counted(machine.hours, 'hour')} at most" if machine.hours else ""
    return (
        f"{facts.images:,} training images of {facts.classes} classes, {colours}, half of them at least {facts.side} "
        f"pixels on the shorter side{few}{many}; {machine.kind} with {counted(machine.cores, 'core')} and "
        f"{shown_bytes(machine.memory)}{limit}. Chosen for them (keys that you give override these):"
    )


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` numbers below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def _size(images: ImageSet, files: Files | None, index: int) -> tuple[int, int] | None:
    """(width, height) of an image, by its header where it is a file; None where it is broken."""
    try:
        return images.read(index).size if files is None else files.size(index)
    except DecodeError:
        return None


def _is_grey(images: ImageSet, index: int) -> bool:
    """Whether the three colours of every pixel are the same; also of an image that is broken."""
    try:
        pixels = np.asarray(images.read(index))
    except DecodeError:
        return True
    return pixels.ndim == 2 or bool((pixels[..., :1] == pixels[..., :3]).all())


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    """`about 40 seconds`, `about 3 minutes`, `about 2.5 hours`: two digits are more than is known."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.2g} {unit}"
    return f"about {max(1, round(seconds))} seconds"
