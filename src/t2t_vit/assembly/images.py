"""The images of a run before its first step: which can be read, which stay in memory, and the lists of both parts."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray

from t2t_vit.assembly import build
from t2t_vit.assembly.run import Job, Start, check_same_classes, recorded_place
from t2t_vit.data.cache import ByteStore, keep_decoded, shared_store
from t2t_vit.data.datasets import Recorded
from t2t_vit.data.decode import MODES, Reduction
from t2t_vit.data.folder import Files, reduced
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import BadImages, not_readable
from t2t_vit.data.memory import Place, budget_of, shown_bytes
from t2t_vit.data.readable import (
    MOST_DECODED,
    SECONDS,
    Look,
    decode_some,
    digest,
    fingerprint,
    read_headers,
    read_list,
    reduced_sizes,
    remember,
    remembered,
    write_list,
)
from t2t_vit.data.samples import EvalSamples
from t2t_vit.data.workers import usable_workers
from t2t_vit.errors import DataError, UserError, printable
from t2t_vit.files import atomic_write, open_to_append
from t2t_vit.notes import counted
from t2t_vit.platforms import has_memory_files
from t2t_vit.settings.schema import Config
from t2t_vit.training.run import Folders

BAD_IMAGES = "bad_images.txt"
TRAINING_LIST, VALIDATION_LIST = "train_images.txt", "val_images.txt"
_MANY = 5_000  # from this number on, checking takes so long that it is announced
_MOST_THREADS = 32


@dataclass(frozen=True)
class Prepared:
    """What the loaders of a run read.

    train                  as the training loader reads them
    val, val_kept          the validation images, and memory for their pixels
    bad_train, bad_val     what is done about those that cannot be read
    """

    train: ImageSet
    val: ImageSet
    val_kept: ByteStore | None = None
    bad_train: BadImages = field(default_factory=BadImages)
    bad_val: BadImages = field(default_factory=BadImages)


def prepare_images(job: Job, train: ImageSet, val: ImageSet) -> Prepared:
    """Look at the images of a run and keep in memory what fits; the first lines say what was found.

    The headers of all files are read, and images decoded whole until `MOST_DECODED` or `SECONDS` are reached. Processes
    share the work. An image that was decoded here is in memory when the first epoch asks for it.

    Raises:
        UserError: images cannot be read and `bad_images` is error, or too few are left.
    """
    files, val_files = Files.of(train), Files.of(val)
    if files is None or val_files is None:
        return Prepared(train, val)
    return _Preparation(job, train, val, files, val_files).prepare()


def run_images(start: Start, note: build.Note) -> tuple[ImageSet, ImageSet]:
    """The training and the validation images of a run; of a continued run, those that it began with.

    Raises:
        UserError: they cannot be opened, or are of other classes than the run's.
    """
    saved = start.saved
    if saved is None:
        return build.training_images(start.config, note)
    held, classes = saved.content["data"], saved.content["classes"]
    recorded = Folders.of(*recorded_place(saved.content))
    for logs in ([] if start.run is None else [start.run.folders.logs]) + [recorded.logs]:
        train, val = read_list(logs / TRAINING_LIST), read_list(logs / VALIDATION_LIST)
        if train and val and (digest(train), digest(val)) == (held.get("train_files"), held.get("val_files")):
            return build.training_images(start.config, note, Recorded(train, val, classes))
    train_set, val_set = build.training_images(start.config, note, classes=classes)
    check_same_classes(saved, train_set.classes)
    return train_set, val_set


def folder_of_images(images: ImageSet) -> str:
    """A folder with some of the images; empty where they are no files, or all gone."""
    return _folder_of_first(images.name(number) for number in range(len(images)))


def listed_folder_of_images(config: Config, logs: Path) -> str:
    """As `folder_of_images`, of the validation images that a run lists in its logs, without looking at all of them."""
    try:
        folder = build.validation_folder_of(config)
    except DataError:
        return ""
    return _folder_of_first(str(folder / os.fsdecode(name)) for name in read_list(logs / VALIDATION_LIST) or ())


def _folder_of_first(names: Iterable[str]) -> str:
    # Of a folder that may not be looked into, a Path raises.
    return next((str(Path(name).parent) for name in names if os.path.isfile(name)), "")  # noqa: PTH113


def digests(train: ImageSet, val: ImageSet) -> dict[str, int]:
    """What tells the lists of images of a run from others, for its checkpoints; nothing where they are no files."""
    files = {"train_files": Files.of(train), "val_files": Files.of(val)}
    return {name: digest([f.relative(i) for i in range(len(f))]) for name, f in files.items() if f is not None}


def write_lists(folder: Path, train: ImageSet, val: ImageSet) -> None:
    """Write which images the run trains on and which are kept for validation, a line each.

    Raises:
        UserError: the folder cannot be written.
    """
    for name, images in ((TRAINING_LIST, train), (VALIDATION_LIST, val)):
        files = Files.of(images)
        if files is not None:
            write_list(folder / name, files)


class _Preparation:
    def __init__(self, job: Job, train: ImageSet, val: ImageSet, train_files: Files, val_files: Files) -> None:
        self.job, self.config, self.processes = job, job.config, job.processes
        self.sets = (train, val)
        self.files = (train_files, val_files)
        self.total = len(train) + len(val)
        self.threads = max(1, min(_MOST_THREADS, usable_workers(_MOST_THREADS) // self.processes.count))
        self.known = False

    def prepare(self) -> Prepared:
        self._share_budget()
        looks = self._remembered()
        if looks is None:
            looks = self._headers()
        transform = build.largest_transform(self.config)
        train = reduced(self.sets[0], transform.reduction)
        prepared = self._kept(train, looks, transform.reduction)
        if not self.known:
            self._decode(prepared, looks)
            self._remember(looks)
        bad = self._report(looks)
        return Prepared(prepared.train, prepared.val, prepared.val_kept, *bad)

    # What the last start has found

    def _remembered(self) -> tuple[Look, Look] | None:
        """What an earlier start has found of the same files, as the first process remembers it."""
        mode = MODES[self.config.in_chans]
        readers = build.largest_transform(self.config), build.preprocessing_of(self.config)
        self._keys = [fingerprint(files, mode, *readers) for files in self.files] if self.processes.is_first else []
        found = [remembered(key, len(files)) for key, files in zip(self._keys, self.files, strict=False)]
        whole = [look for look in found if look is not None]
        self.known = self._sum(np.array([len(whole) == 2], np.int64))[0] > 0
        if not self.known:
            return None
        looks = (whole[0], whole[1]) if whole else (Look.at_none(len(self.files[0])), Look.at_none(len(self.files[1])))
        self._merge(looks)
        return looks

    def _remember(self, looks: tuple[Look, Look]) -> None:
        for key, look in zip(self._keys, looks, strict=False):
            remember(key, look)

    # Looking

    def _headers(self) -> tuple[Look, Look]:
        if self.total >= _MANY and self.processes.is_first:
            self.job.console.screen(f"checking {self.total:,} images before the first step")
        looks = (Look.at_none(len(self.files[0])), Look.at_none(len(self.files[1])))
        for files, look in zip(self.files, looks, strict=True):
            read_headers(files, look, self._share(len(files)), self.threads)
        self._merge(looks)
        return looks

    def _decode(self, prepared: Prepared, looks: tuple[Look, Look]) -> None:
        """Decode validation images first, which are fewer, then training images from all over the set."""
        until = monotonic() + SECONDS
        left = MOST_DECODED
        preprocessing = build.preprocessing_of(self.config)
        val = reduced(prepared.val, preprocessing.reduction)
        pixels = EvalSamples(val, preprocessing, prepared.val_kept).pixels
        for images, read, look in ((self.sets[1], pixels, looks[1]), (self.sets[0], prepared.train.read, looks[0])):
            chosen = _spread(len(images), left)
            left -= len(chosen)
            mine = [number for number in chosen.tolist() if number % self.processes.count == self.processes.rank]
            decode_some(read, look, mine, self.threads, until)
        self._merge(looks)

    def _share(self, count: int) -> range:
        return range(self.processes.rank, count, self.processes.count)

    def _share_budget(self) -> None:
        """What may be decoded at a time is one number for all processes of a machine."""
        if self.processes.count == 1:
            return
        budget, is_first = self.files[0].images.budget, self.processes.local == 0
        place = self._of_the_machine(budget.place if is_first else None)
        if not is_first:
            budget.join(place)

    def _merge(self, looks: Sequence[Look]) -> None:
        """Add up what all processes have found; the first one finds out why, where it was another that found it."""
        if self.processes.count == 1:
            return
        for files, look in zip(self.files, looks, strict=True):
            bad = self._sum(look.bad().astype(np.int64)) > 0
            look.sizes = np.where(bad[:, None], 0, self._most(look.sizes))
            look.decoded = self._sum(look.decoded.astype(np.int64)) > 0
            for number in np.flatnonzero(bad).tolist():
                look.reasons.setdefault(number, self._reason(files, number))

    def _reason(self, files: Files, number: int) -> str:
        if not self.processes.is_first:
            return "it cannot be read"
        again = Look.at_none(len(files))
        decode_some(files.images.read, again, [int(files.numbers[number])], 1, float("inf"))
        return next(iter(again.reasons.values()), "another process could not read it")

    def _sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        tensor = torch.from_numpy(values).to(self.job.device)
        total: NDArray[np.int64] = self.processes.sum(tensor).cpu().numpy()
        return total

    def _most(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sizes that one process knows, or several know alike."""
        known = self._sum((sizes > 0).astype(np.int64))
        return self._sum(sizes) // np.maximum(known, 1)

    # Memory

    def _kept(self, train: ImageSet, looks: tuple[Look, Look], reduction: Reduction) -> Prepared:
        """The training images and the pixels of validation that stay in memory; the training images come first.

        In a single epoch nothing is read twice.
        """
        config, val = self.config, self.sets[1]
        if config.epochs + config.cooldown_epochs == 1 or config.cache == "off":
            return Prepared(train, val)
        if not has_memory_files():
            self.job.note("cache: this platform has no shared memory files; images are decoded in every epoch")
            return Prepared(train, val)
        # All processes must come to the same answer here, whatever each of them sees of the memory.
        budgets = np.zeros(self.processes.count, np.int64)
        budgets[self.processes.rank] = budget_of(config.cache)
        budget = int(self._sum(budgets).min())
        first, share = self.processes.local == 0, self._of_the_machine
        kept, budget = keep_decoded(
            train,
            MODES[config.in_chans],
            budget,
            reduced_sizes(looks[0].sizes, reduction),
            what=f"{len(train):,} training images",
            first=first,
            share=share,
            note=self.job.note,
        )
        preprocessing = build.preprocessing_of(config)
        needed = len(val) * (config.in_chans * preprocessing.image_size[0] * preprocessing.image_size[1] + 24)
        what = f"the pixels of {counted(len(val), 'validation image')}, {shown_bytes(needed)}"
        if needed > budget:
            self.job.note(
                f"cache: {what}, do not fit the {shown_bytes(budget)} that are left; they are decoded each time"
            )
            return Prepared(kept, val)
        store = shared_store(len(val), budget, first, share, self.job.note)
        if store is not None:
            self.job.note(f"cache: {what}, stay in memory")
        return Prepared(kept, val, store)

    def _of_the_machine(self, place: Place | None) -> Place | None:
        """What the first process of this machine has."""
        places = np.zeros((self.processes.count, 2), np.int64)
        if place is not None:
            places[self.processes.rank] = place
        process, descriptor = self._sum(places)[self.processes.rank - self.processes.local].tolist()
        return (process, descriptor) if process else None

    # Saying it

    def _report(self, looks: tuple[Look, Look]) -> tuple[BadImages, BadImages]:
        job, note = self.job, self.job.note
        decoded = sum(int(look.decoded.sum()) for look in looks)
        bad = sum(len(look.reasons) for look in looks)
        earlier = ", decoded by an earlier start" if self.known else ""
        seen = f"checked {self.total:,} images, {decoded:,} of them decoded whole{earlier}"
        path = job.folders.logs / BAD_IMAGES
        where = f", all of them listed in {path}" if bad else ""
        if job.processes.is_first and bad:
            with atomic_write(path, "w") as file:
                file.writelines(f"{line}\n" for line in self._bad_lines(looks))
        stops = self.config.bad_images == "error"
        # What was removed since the run began, perhaps as it was told, is no reason to stop.
        broken = {
            images.name(number): look.reasons[number]
            for images, files, look in zip(self.sets, self.files, looks, strict=True)
            for number in sorted(look.reasons)
            if os.path.lexists(files.path(number))
        }
        if stops and broken:
            raise UserError(not_readable(broken, self.total, where))
        if not bad:
            note(f"{seen}: all are readable")
        else:
            instead = ("training, which replaces them", "validation, which leaves them out")
            counts = zip((len(look.reasons) for look in looks), instead, strict=True)
            parts = [f"{count:,} for {what}" for count, what in counts if count]
            note(f"{seen}: some are unreadable, {' and '.join(parts)}{where}")
        self._check_left(looks, where)
        found = partial(_append, path) if job.processes.is_first else _nothing
        train, val = (BadImages(stops, frozenset(look.reasons), note, found) for look in looks)
        return train, val

    def _bad_lines(self, looks: tuple[Look, Look]) -> Iterator[str]:
        for images, look in zip(self.sets, looks, strict=True):
            for number in sorted(look.reasons):
                yield _bad_line(images.name(number), look.reasons[number])

    def _check_left(self, looks: tuple[Look, Look], where: str) -> None:
        """Refuse to train on what is left where that is too little."""
        train, val = self.sets
        if 2 * len(looks[0].reasons) > len(train):
            raise UserError(
                f"{len(looks[0].reasons):,} of {len(train):,} training images cannot be read{where}, more than half; "
                "repair them, or remove them and begin a new run"
            )
        if len(looks[1].reasons) == len(val):
            raise UserError(
                f"none of {counted(len(val), 'validation image')} can be read{where}; repair or replace them"
            )
        left = np.bincount(train.targets[~looks[0].bad()], minlength=len(train.classes))
        there = np.bincount(train.targets, minlength=len(train.classes))
        gone = [train.classes[number] for number in np.flatnonzero((left == 0) & (there > 0)).tolist()]
        if gone:
            raise UserError(
                f"none of the training images of class {gone[0]} can be read{where}; repair them or bring them back, "
                "or begin a new run without that folder"
            )


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` numbers below `count`, evenly spread, in an order in which every beginning is spread as well."""
    chosen = np.linspace(0, count - 1, min(count, max(0, most))).astype(np.int64)
    return np.random.default_rng(0).permutation(chosen)


def _bad_line(name: str, reason: str) -> str:
    return f"{printable(name)}\t{reason}"


def _append(path: Path, name: str, reason: str) -> None:
    """Add an image that proved bad later; a disk that is full costs the line, not the run."""
    try:
        with open_to_append(path, errors="backslashreplace") as file:
            file.write(f"{_bad_line(name, reason)}\n")
    except OSError:
        return


def _nothing(_name: str, _reason: str) -> None:
    pass
