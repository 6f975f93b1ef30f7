"""`batch_size: auto`: the largest batch that memory holds, and how many of them make the images of an update.

On an accelerator it is found by trial: updates of the run's own network on random images, with a tenth of the memory
left free. On a CPU, where the system would rather kill than refuse, it is the recipe's number, cut to what an estimate
of the memory allows.
"""

import gc
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch

from t2t_vit.assembly import build
from t2t_vit.assembly.teacher import guidance_of
from t2t_vit.data.decode import MODES
from t2t_vit.data.images import ArrayImages
from t2t_vit.data.memory import free_memory, shown_bytes
from t2t_vit.errors import UserError
from t2t_vit.model.cost import kept_for_backward
from t2t_vit.notes import silent
from t2t_vit.out_of_memory import is_out_of_memory
from t2t_vit.platforms import address_space_left
from t2t_vit.precision import Precision
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.rules import largest_size_of
from t2t_vit.settings.schema import AUTO_BATCH, KEYS, Config
from t2t_vit.training.distributed import Processes
from t2t_vit.training.teacher import Teacher

Note = Callable[[str], None]

HEADROOM = 0.9  # share of the free memory that a trial may use
_STEPS = 2  # updates of a trial: the first one allocates the optimizer's moments
_LARGEST = 8192  # most images to try if nothing else ends the search
# Besides what autograd keeps for the backward pass, there are gradients of the activations.
_BESIDE = 1.5
# A compiler recomputes some of it, and half precision keeps some of it in half as many bytes.
_COMPILED = 0.5
# More than any of our networks keeps per pixel and for its weights: at most 2 KB and 1 GB were measured.
_A_PIXEL, _WEIGHTS = 4000, 2 * 10**9
_IMAGES = 2  # of the pass that is measured
_CLASSES = 1000  # at least, so that the answer does not depend on whether their number is known yet


@dataclass(frozen=True)
class Wanted:
    """What `batch_size: auto` was asked with.

    recipe   the batch size of the recipe, a device's
    fixed    whether accumulation_step was given, and stays
    """

    recipe: int
    fixed: bool


def wanted(options: Options) -> Wanted:
    """The recipe's batch size is the file's, or the default.

    An accumulation_step that is on the command line, or in a file that itself says auto, is meant as it is.
    """
    in_file = int(options.file.get("batch_size", AUTO_BATCH))  # type: ignore[arg-type]
    is_files = "batch_size" in options.file and in_file == AUTO_BATCH
    fixed = "accumulation_step" in options.line or (is_files and "accumulation_step" in options.file)
    return Wanted(in_file or int(KEYS["batch_size"].default), fixed)  # type: ignore[arg-type]


def resolved(
    config: Config,
    want: Wanted,
    precision: Precision,
    note: Note,
    *,
    processes: Processes | None = None,
    images: int = 0,
    teacher: Teacher | None = None,
) -> Config:
    """`config` with the numbers that `auto` comes to, the same in all processes; the first one finds them.

    Args:
        images: how many there are to train with; 0: nobody knows yet.
        teacher: is asked in a trial too, before each step.

    Raises:
        UserError: not even a single image fits.
    """
    processes = processes or Processes()
    found = _found(config, want, precision, note, processes, images, teacher) if processes.is_first else (0, 0)
    if processes.count > 1:
        batch, accumulation = processes.of_first(torch.tensor(found, device=precision.device)).tolist()
        found = batch, accumulation
    return replace(config, batch_size=found[0], accumulation_step=found[1])


def _found(
    config: Config,
    want: Wanted,
    precision: Precision,
    note: Note,
    processes: Processes,
    images: int,
    teacher: Teacher | None,
) -> tuple[int, int]:
    most = max(1, images // processes.count) if images else _LARGEST
    whole = min(want.recipe * (1 if want.fixed else config.accumulation_step), most)
    if precision.device.type == "cpu":
        held = held_by_memory(config, processes, note)
        fitting, how = min(whole, held), "estimated"
    else:
        fitting, how = _tried(Trial(config, precision, teacher), whole, most if want.fixed else whole), "found by trial"
    if fitting < 1:
        raise UserError(
            f"batch_size auto: not even one image fits into the memory of {precision.device}: lower image_size, or "
            "choose a smaller arch"
        )
    batch, accumulation = (fitting, config.accumulation_step) if want.fixed else shared(whole, fitting)
    update = batch * accumulation
    note(
        f"batch_size auto: {batch} ({how}, {precision.device.type}), accumulation_step {accumulation}: "
        f"{update:,} images per update and device"
        + ("" if update == whole or want.fixed else f", as close as possible to the recipe's {whole:,}")
    )
    return batch, accumulation


def shared(whole: int, most: int) -> tuple[int, int]:
    """(batch, accumulation): batches of at most `most` images that together make `whole`, as few as may be.

    Where no such number of batches divides `whole`, and twice as many would not either, they make as nearly as many.
    """
    fewest = math.ceil(whole / most)
    exact = [count for count in range(fewest, min(2 * fewest, whole) + 1) if whole % count == 0]
    count = exact[0] if exact else fewest
    return min(most, max(1, round(whole / count))), count


def largest(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The largest batch up to `most` for which `fits` holds, to an eighth; 0 where 1 does not fit.

    From `start` on it is doubled or halved, and then the gap is narrowed.
    """
    good, bad = 0, most + 1
    size = min(start, most)
    while size and not good:
        if fits(size):
            good = size
        else:
            bad, size = size, size // 2
    while good and good < most and bad > most:
        size = min(2 * good, most)
        if not fits(size):
            bad = size
            break
        good = size
    while good and bad <= most and bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _tried(trial: "Trial", start: int, most: int) -> int:
    """The largest batch that two updates of the run's network leave a tenth of the device's memory free with."""
    device = trial.device
    if device.type != "cuda":
        return largest(trial.fits, start, most)
    free, total = torch.cuda.mem_get_info(device)
    before = torch.cuda.get_per_process_memory_fraction(device)
    allowed = (HEADROOM * free + torch.cuda.memory_reserved(device)) / total
    torch.cuda.set_per_process_memory_fraction(min(before, allowed), device)
    try:
        return largest(trial.fits, start, most)
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


class Trial:
    """Updates of the run's network, eager, on random images."""

    def __init__(self, config: Config, precision: Precision, teacher: Teacher | None = None) -> None:
        self._config, self._precision = replace(config, pynative_mode=True, accumulation_step=1), precision
        self._teacher, self.device = teacher, precision.device

    def fits(self, batch: int) -> bool:
        """Whether updates of so many images find the memory that they need."""
        try:
            self._updates(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            gc.collect()  # hooks of a network refer to it in cycles
            if self._precision.device.type == "cuda":
                torch.cuda.empty_cache()
        return True

    def _updates(self, batch: int) -> None:
        config, precision = self._config, self._precision
        classes = max(config.num_classes, _CLASSES) if self._teacher is None else config.num_classes  # which it answers
        model = build.network(config, classes)
        precision.prepare(model)
        trained = build.trained_of(config, model, precision)
        names = [str(number) for number in range(classes)]
        counted = ArrayImages(
            np.zeros((classes, 1, 1), np.uint8), np.arange(classes), names, MODES[config.in_chans], ""
        )
        guidance = guidance_of(config, self._teacher, precision.device)
        step = build.step_of(config, trained, counted, precision, Processes(), silent, guidance)
        for number in range(_STEPS):
            images = torch.randn(batch, config.in_chans, *largest_size_of(config), device=precision.device)
            targets = torch.full((batch, classes), 1 / classes, device=precision.device)
            step([(images, targets)], number).loss.item()


def held_by_memory(config: Config, processes: Processes, note: Note) -> int:
    """How many images a training step on this machine's CPU can hold, by an estimate; `_LARGEST` where nobody knows."""
    free = _free_memory() // processes.count
    if not free:
        return _LARGEST
    fixed, per_image = training_bytes(config)
    held = int((HEADROOM * free - fixed) // per_image)
    note(
        f"memory: {shown_bytes(free)} are free; an update takes about {shown_bytes(fixed)} and "
        f"{shown_bytes(per_image)} more per image"
    )
    return max(0, min(held, _LARGEST))


def check_memory(config: Config, images: int, processes: Processes) -> None:
    """Refuse, before the first step on a CPU, a batch that its memory cannot hold: the system would kill the process,
    which can then say nothing.

    Refused is only what is beyond doubt: half of what autograd keeps would not fit. Looked at is only what comes near.

    Args:
        images: of each process, which a batch is cut to.

    Raises:
        UserError: it cannot be held.
    """
    free, batch = _free_memory() // processes.count, min(config.batch_size, images)
    height, width = largest_size_of(config)
    if not free or _WEIGHTS + batch * height * width * _A_PIXEL < free:
        return
    fixed, per_image = training_bytes(config)
    least = fixed + int(batch * per_image / _BESIDE * _COMPILED)
    if least > free:
        raise UserError(
            f"out of memory on this machine: an update with batch_size {batch} takes at least "
            f"{shown_bytes(least)}, and {shown_bytes(free)} are free: lower batch_size (accumulation_step keeps the "
            "images of an update) or image_size, or write --batch_size auto, which finds what fits"
        )


def training_bytes(config: Config) -> tuple[int, int]:
    """What an update takes at least, and what it takes for each image, in bytes of float32: an estimate.

    Counted on shapes alone: weights, gradients, the optimizer's two moments and the averages; and what autograd keeps
    for the backward pass, once for each storage.
    """
    model = deepcopy(build.network(config, max(config.num_classes, _CLASSES))).to("meta").train()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    copies = 4 + config.with_ema + {"none": 0, "swa": 1, "last_k": 1 + config.average_epochs}[config.model_average]
    images = torch.empty(_IMAGES, config.in_chans, *largest_size_of(config), device="meta")
    kept = kept_for_backward(model, images)
    return weights * copies, int(_BESIDE * kept / _IMAGES)


def _free_memory() -> int:
    """What is free on the machine and in its control groups, and what the process may still take by its own limit."""
    free = free_memory()
    left = address_space_left()
    # Libraries that are loaded later and the allocator's reserves also use part of its address space.
    return free if left is None else min(free or left, max(1, left // 2))
