"""Image folders: one folder a class, images anywhere below it; which part is for training, which for validation."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import EXTENSIONS, Mode, decode
from t2t_vit.data.images import Subset
from t2t_vit.errors import UserError

# The names that are looked for, in this order and in any case, where none is given.
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("validation_preprocess", "val", "valid", "validation")
# Parts of a data set that must not be taken for classes. Test images are taken only when they are named: a checkpoint
# that was chosen by them says nothing about new images.
_PART_NAMES = frozenset({*TRAIN_NAMES, *VAL_NAMES, "test", "testing"})


class FolderImages:
    """The images of `folder/CLASS/**/*`, classes sorted by name, files sorted by path within a class.

    Files count by their ending, in any case (`EXTENSIONS`); hidden files and folders do not, links do.

    Raises:
        UserError: the folder is missing or no folder, holds no class folders, or a class folder holds no images.
    """

    def __init__(self, folder: Path, mode: Mode) -> None:
        self.folder = folder
        self._mode: Mode = mode
        self.classes = _classes(folder)
        paths: list[bytes] = []
        counts: list[int] = []
        for name in self.classes:
            found = sorted(_image_files(folder / name))
            counts.append(len(found))
            paths += (os.fsencode(f"{name}/{path}") for path in found)
        _check_counts(folder, self.classes, counts)
        self.targets = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        # One block of bytes instead of a million strings: it is sent to every worker process.
        self._paths = b"".join(paths)
        self._ends = np.cumsum([len(path) for path in paths])

    def __len__(self) -> int:
        return len(self.targets)

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.folder / os.fsdecode(self.relative(index))

    def relative(self, index: int) -> bytes:
        """CLASS/PATH of image `index`: its name wherever the folder lies."""
        start = int(self._ends[index - 1]) if index > 0 else 0
        return self._paths[start : int(self._ends[index])]

    def read(self, index: int) -> Image.Image:
        return decode(self.path(index), self._mode)

    def name(self, index: int) -> str:
        return str(self.path(index))


def _classes(folder: Path) -> tuple[str, ...]:
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError as error:
        raise UserError(f"the folder {folder} does not exist{_neighbours(folder)}") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error
    classes = tuple(sorted(name for name, is_folder in names.items() if is_folder))
    if classes:
        return classes
    if any(_is_image(name) for name in names):
        raise UserError(
            f"{folder} holds images but no class folders; put the images of each class into a folder of its name"
        )
    raise UserError(f"{folder} holds no class folders; it must hold one folder of images a class")


def _image_files(folder: Path) -> Iterator[str]:
    """Paths of images below `folder`, relative to it, following links but never in a circle."""
    pending: list[tuple[str, tuple[str, ...]]] = [("", ())]
    while pending:
        relative, above = pending.pop()
        here = os.path.realpath(folder / relative)
        if here in above:
            continue
        try:
            with os.scandir(folder / relative) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{relative}/{entry.name}" if relative else entry.name
                    if entry.is_dir():
                        pending.append((path, (*above, here)))
                    elif _is_image(entry.name):
                        yield path
        except OSError as error:
            raise UserError(f"{folder / relative} cannot be read ({error.strerror})") from error


def _is_image(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in EXTENSIONS


def _check_counts(folder: Path, classes: tuple[str, ...], counts: list[int]) -> None:
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if not empty:
        return
    if len(empty) == len(classes):
        raise UserError(f"{folder} holds class folders but no images in them; images end in .jpg, .png or the like")
    others = f" (and so do {len(empty) - 1} more)" if len(empty) > 1 else ""
    raise UserError(
        f"the class folder {folder / empty[0]} holds no images{others};"
        " add some, or remove the folder and give one class fewer"
    )


def _neighbours(folder: Path) -> str:
    try:
        names = sorted(entry.name for entry in os.scandir(folder.parent) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return f", nor does {folder.parent}" if not folder.parent.exists() else ""
    if not names:
        return f"; {folder.parent} holds no folders"
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"; {folder.parent} holds {shown}"


@dataclass(frozen=True)
class Tree:
    """A folder `root` of images as its user describes it.

    train_dir, val_dir   names below `root`; None: the usual ones, see `TRAIN_NAMES` and `VAL_NAMES`
    val_split            share of each class of the training images that is kept for validation where there is no
                         validation folder; 0: that is a mistake
    """

    root: Path
    train_dir: str | None = None
    val_dir: str | None = None
    val_split: float = 0.0

    def train(self) -> Path:
        """The folder of the training images; `root` itself where its folders are the classes.

        Raises:
            UserError: `root` is neither divided into parts nor, with `val_split`, into classes.
        """
        found = _first_folder(self.root, TRAIN_NAMES) if self.train_dir is None else self.root / self.train_dir
        usual = self.root / TRAIN_NAMES[0]
        if found is not None or usual.exists():
            return found or usual
        parts = [name for name in _folders(self.root) if name.lower() in _PART_NAMES]
        if parts or (self.val_dir is not None and (self.root / self.val_dir).exists()):
            raise UserError(
                f"{self.root} holds {_listed(parts)}but no folder train; name the one with train_dir (. is {self.root})"
            )
        if self.val_split == 0:
            raise UserError(
                f"{self.root} holds no folder train{_others(self.root)}; name it with train_dir, or where these are "
                "the classes set val_split to 0.2: a fifth of each is then kept for validation"
            )
        return self.root

    def val(self) -> Path | None:
        """The folder of the validation images; None where a share of the training images takes its place.

        Raises:
            UserError: there is none, and no share is to be kept.
        """
        found = _first_folder(self.root, VAL_NAMES) if self.val_dir is None else self.root / self.val_dir
        if found is not None and (self.val_split == 0 or found.exists()):
            return found  # what is wrong with a folder that is missing is said when it is opened
        if self.val_split == 0:
            raise UserError(
                f"{self.root} holds no validation folder ({', '.join(VAL_NAMES)}){_others(self.root)}; name it with "
                "val_dir, or keep a share of each class of the training images with val_split 0.2"
            )
        return None


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` among the folders of `root`, in any case."""
    there = {name.lower(): name for name in reversed(_folders(root))}
    return next((root / there[name] for name in names if name in there), None)


def _folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{root} cannot be read as a folder ({error.strerror})") from error


def _others(root: Path) -> str:
    names = _folders(root)
    return f" but {_listed(names).rstrip()}" if names else " nor any other"


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ... " if len(names) > most else " ") if names else ""


def split(images: FolderImages, share: float, seed: int, key_name: str = "val_split") -> tuple[Subset, Subset]:
    """The training and the validation part of `images`.

    Of a class with n images max(1, min(n - 1, round(share n))) are kept for validation: those whose names, hashed with
    `seed`, come first. So each class of two or more is in both parts, the same names make the same parts wherever the
    folder lies, and an image that is added moves at most one other of its class.

    Raises:
        UserError: every class has a single image, so that none can be kept; `key_name` is named.
    """
    counts = np.bincount(images.targets, minlength=len(images.classes))
    kept = np.where(counts > 1, np.clip(np.floor(share * counts + 0.5), 1, np.maximum(counts - 1, 1)), 0).astype(int)
    if not kept.any():
        raise UserError(f"{key_name}: every class of {images.folder} has a single image, so none can be kept")
    order = np.lexsort((_hashes(images, seed), images.targets))
    place = np.arange(len(images)) - (np.cumsum(counts) - counts)[images.targets[order]]  # within its class
    is_val = np.zeros(len(images), dtype=bool)
    is_val[order] = place < kept[images.targets[order]]
    return Subset(images, np.flatnonzero(~is_val)), Subset(images, np.flatnonzero(is_val))


def _hashes(images: FolderImages, seed: int) -> NDArray[np.uint64]:
    key = seed.to_bytes(8)
    digests = (hashlib.blake2b(images.relative(i), digest_size=8, key=key).digest() for i in range(len(images)))
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
