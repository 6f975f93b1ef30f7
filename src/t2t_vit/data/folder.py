"""Image folders: one folder a class, images anywhere below it; which part is for training, which for validation."""

import copy
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.decode import Mode, Reduction, decode, image_size
from t2t_vit.data.images import ImageSet, Subset
from t2t_vit.data.scan import Scan, class_name, folders_in, holds_images, identities, is_one_of, scan
from t2t_vit.errors import UserError
from t2t_vit.notes import counted
from t2t_vit.platforms import relative_path

# Names to look for, in this order and in any case, if none is given.
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("validation_preprocess", "val", "valid", "validation")
# Splits of a data set, whose folders hold the classes. Test images are used only on request: a checkpoint that
# was chosen by them says nothing about new images.
_PART_NAMES = frozenset({*TRAIN_NAMES, *VAL_NAMES, "test", "testing"})


class FolderImages:
    """The images of `folder/CLASS/**/*`, classes sorted by name, files sorted by path within a class.

    Files count by their ending, in any case (`decode.is_image_ending`); hidden files and folders do not, links do.
    Folders whose names are the same text (`scan.class_name`) are one class.

    Args:
        found: what is in `folder`, where that is known already.
        budget: what may be decoded.

    Attributes:
        budget: as above; one for all processes that read these images.

    Raises:
        UserError: the folder is missing or no folder, holds no class folders, or no images in them.
    """

    def __init__(
        self, folder: Path, mode: Mode, found: Scan | None = None, *, budget: PixelBudget | None = None
    ) -> None:
        found = found or scan(folder)
        found.check_some()
        by_class = found.by_class()
        files = [[os.fsencode(path) for path in paths] for paths in by_class.values()]
        targets = np.repeat(np.arange(len(files), dtype=np.int64), [len(paths) for paths in files])
        self._fill(folder, mode, tuple(by_class), targets, [path for paths in files for path in paths], budget)

    @classmethod
    def of_files(
        cls,
        folder: Path,
        mode: Mode,
        classes: Sequence[str],
        files: Sequence[bytes],
        *,
        budget: PixelBudget | None = None,
    ) -> "FolderImages":
        """The images `files`, each CLASS/PATH below `folder`, in that order, there or not.

        Raises:
            UserError: a file belongs to none of `classes`.
        """
        numbers = {class_name(name): number for number, name in enumerate(classes)}
        targets = []
        for file in files:
            name = class_name(os.fsdecode(file.partition(b"/")[0]))
            if name not in numbers:
                raise UserError(f"{folder}: {os.fsdecode(file)} is not in any of the classes {', '.join(classes)}")
            targets.append(numbers[name])
        images = cls.__new__(cls)
        images._fill(folder, mode, tuple(classes), np.array(targets, np.int64), files, budget)
        return images

    def _fill(
        self,
        folder: Path,
        mode: Mode,
        classes: tuple[str, ...],
        targets: NDArray[np.int64],
        files: Sequence[bytes],
        budget: PixelBudget | None,
    ) -> None:
        self.budget = budget or PixelBudget()
        self.folder, self._mode, self.classes, self.targets = folder, mode, classes, targets
        self._reduction: Reduction | None = None
        # One block of bytes instead of a million strings: it is sent to every worker process.
        self._paths = b"".join(files)
        self._ends = np.cumsum([len(path) for path in files], dtype=np.int64)

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
        return decode(self.path(index), self._mode, self._reduction, self.budget)

    def name(self, index: int) -> str:
        return str(self.path(index))

    def reduced(self, reduction: Reduction) -> "FolderImages":
        """The same images, each read as much smaller as `reduction` says of its size."""
        images = copy.copy(self)
        images._reduction = reduction
        return images


@dataclass(frozen=True)
class Files:
    """The files that an image set reads: number i is `relative(i)` below `folder`."""

    images: FolderImages
    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, images: ImageSet) -> "Files | None":
        """Those of a folder's images or of a part of them; None where an image is no file."""
        if isinstance(images, FolderImages):
            return cls(images, np.arange(len(images)))
        if isinstance(images, Subset):
            files = cls.of(images.base)
            return None if files is None else cls(files.images, files.numbers[images.indices])
        return None

    def __len__(self) -> int:
        return len(self.numbers)

    def relative(self, index: int) -> bytes:
        """CLASS/PATH of image `index`."""
        return self.images.relative(int(self.numbers[index]))

    def path(self, index: int) -> Path:
        return self.images.path(int(self.numbers[index]))

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of image `index` as its header says; raises DecodeError as `decode.image_size`."""
        return image_size(self.path(index), self.images.budget)


def reduced(images: ImageSet, reduction: Reduction) -> ImageSet:
    """The same images, those of files read as much smaller as `reduction` says of the size of each."""
    if isinstance(images, FolderImages):
        return images.reduced(reduction)
    if isinstance(images, Subset):
        return images.of(reduced(images.base, reduction))
    return images


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
        if self.train_dir is not None:
            return self.root / self.train_dir
        named = self._named_train()
        if named is not None and not self._is_class(named):
            return named
        usual = self.root / TRAIN_NAMES[0]
        if named is None and usual.exists():  # a file: opening it gives the error
            return usual
        parts = [] if named else [name for name in self._parts() if not holds_images(self.root / name)]
        if parts or (self.val_dir is not None and (self.root / self.val_dir).exists()):
            raise UserError(
                f"{self.root} holds {_listed(parts)}but no folder train; give the training folder with train_dir (. is "
                f"{self.root})"
            )
        if self.val_split == 0:
            self._check_no_classes()
            raise UserError(
                f"{self.root} holds no folder train{_others(self.root)}; give it with train_dir, or if these are "
                "the classes set val_split to 0.2: a fifth of each is then kept for validation"
            )
        return self.root

    def val(self) -> Path | None:
        """The folder of the validation images; None where a share of the training images takes its place.

        Raises:
            UserError: there is none, and no share is to be kept.
        """
        found = self._named_val()
        if found is not None and (self.val_split == 0 or found.exists()):
            return found  # opening a missing folder gives the error
        if self.val_split == 0:
            self._check_no_classes()
            raise UserError(
                f"{self.root} holds no validation folder ({', '.join(VAL_NAMES)}){_others(self.root)}; give it with "
                "val_dir, or keep a share of each class of the training images with val_split 0.2"
            )
        return None

    def beside(self, val: Path | None) -> list[str]:
        """Folders of `root` with images that neither the training nor the validation images `val` come from."""
        train = self.train()
        used = [place.resolve() for place in (train, val) if place is not None]
        if self.root.resolve() in used:
            return []
        # By their identity: where the file system ignores case, val_dir VAL is the folder that is listed as val.
        above = identities(path for place in used for path in (place, *place.parents))
        return [
            name
            for name in folders_in(self.root)
            if not is_one_of(self.root / name, above) and holds_images(self.root / name, deep=True)
        ]

    def _check_no_classes(self) -> None:
        if parts := self.parts_as_classes():
            raise UserError(
                f"{', '.join(parts)} in {self.root} {are_classes(parts)}: set "
                f"val_split to 0.2, so that a fifth of each is kept for validation (in a split the images would lie in "
                f"{parts[0]}/CLASS)"
            )

    def whole(self) -> Path | None:
        """`root`, where nothing divides it and all of its images can be measured; else None."""
        divided = self.val_split > 0 or self._named_val() is not None or not self._holds_classes()
        return None if divided else self.root

    def parts_as_classes(self) -> list[str]:
        """Folders of `root` that have the name of a part and are taken for classes: they hold images themselves."""
        return [name for name in self._parts() if holds_images(self.root / name)] if self._holds_classes() else []

    def _holds_classes(self) -> bool:
        """Whether the folders of `root` are classes, not parts."""
        if self.train_dir is not None:
            return Path(self.train_dir) == Path()
        named = self._named_train()
        return named is None or self._is_class(named)

    def _named_train(self) -> Path | None:
        return _first_folder(self.root, TRAIN_NAMES)

    def _named_val(self) -> Path | None:
        if self.val_dir is not None:
            return self.root / self.val_dir
        found = _first_folder(self.root, VAL_NAMES)
        return None if found is not None and self._val_is_class(found) else found

    def _val_is_class(self, found: Path) -> bool:
        if self.train_dir is not None:
            return Path(self.train_dir) == Path() and holds_images(found)
        named = self._named_train()
        return holds_images(found) and (self._is_class(named) if named else bool(self._with_images(found)))

    def _is_class(self, named: Path) -> bool:
        """Whether the folder `named` train is a class: it holds images itself, and so do folders beside it.

        Raises:
            UserError: it may be a class and a part: it holds folders with images, too.
        """
        others = self._with_images(named)
        if not holds_images(named) or not others:
            return False
        if any(holds_images(named / name, deep=True) for name in folders_in(named)):
            raise UserError(
                f"{named} holds images and folders of images, and {_listed(others)}beside it hold images: it may be "
                f"the training split, whose folders are the classes (--train_dir ./{quote(named.name)}), or one class "
                "of several (--train_dir .); choose with train_dir"
            )
        return True

    def _with_images(self, besides: Path) -> list[str]:
        """The folders beside `besides` that hold images themselves."""
        return [n for n in folders_in(self.root) if n != besides.name and holds_images(self.root / n)]

    def _parts(self) -> list[str]:
        return [name for name in folders_in(self.root) if name.lower() in _PART_NAMES]


def check_level(found: Scan, root: Path, key: str, *, guess: bool = True) -> None:
    """Refuse to train on a folder whose classes probably lie a level below.

    Args:
        found: what was found in the folder of classes.
        root: what `key`, data_url or train_dir, is relative to: "." where it is data_url.
        guess: whether the level was guessed, not named: then also two or more data sets side by side are a mistake.

    Raises:
        UserError: there are fewer than two classes, or each is a data set of its own.
    """
    classes = found.by_class()
    if len(classes) < 2:
        raise UserError(_one_class(found, root, key))
    if not guess:
        return
    for name in found.folders():
        below = found.below(name)
        named = {part.lower() for part in below} & _PART_NAMES
        if named & set(TRAIN_NAMES) and len(named) > 1 and not found.directly(name):
            divided = [part for part in below if part.lower() in _PART_NAMES]
            if any(found.below(f"{name}/{part}") for part in divided):
                raise UserError(
                    f"{found.folder / name} is itself a data set, with {', '.join(divided)} in it; give that folder: "
                    f"--data_url {quote(str(found.folder / name))}"
                )
            raise UserError(
                f"{found.folder / name} is divided into {', '.join(divided)}, within a class folder: turn "
                f"the folders around, {found.folder}/{divided[0]}/{name}; or add --train_dir . if all of them are "
                "images of that class"
            )


def check_known(found: Scan, root: Path, classes: Sequence[str]) -> None:
    """Refuse to measure a folder whose own folders have none of the names, where those within one of them do.

    Raises:
        UserError: the classes lie a level below.
    """
    known = set(map(class_name, classes))
    if known & found.by_class().keys():
        return
    for name in found.folders():
        if known & set(map(class_name, found.below(name))):
            raise UserError(
                f"{found.folder} holds none of the classes, but {found.folder / name} does: give the folder that holds "
                f"them: {_named(found.folder / name, found.folder, root)}"
            )


def _named(meant: Path, there: Path, root: Path) -> str:
    """The option that names `meant` in place of `there`, which is `root` or one of its parts."""
    return f"--data_url {quote(str(meant))}" if there == root else f"--val_dir {quote(relative_path(meant, root))}"


def _one_class(found: Scan, root: Path, key: str) -> str:
    place = found.folder
    (name,) = found.folders() or [""]
    level, below = name, found.below(name)
    while len(below) == 1 and not found.directly(level):
        level = f"{level}/{below[0]}"
        below = found.below(level)
    if len(below) > 1 or (below and not found.directly(level)):
        meant = place / level
        shown = quote(str(meant) if key == "data_url" else relative_path(meant, root))
        return (
            f"{place} holds one folder of images, {name}, and {_listed(below)}lie in {meant}: if those are the "
            f"classes, give the folder that holds them: --{key} {shown}"
        )
    loose = f", and {counted(found.loose_images, 'image')} in no folder" if found.loose_images else ""
    return (
        f"{place} holds one class, {name}{loose}; training needs two or more: put the images of "
        "each class into a folder of its name"
    )


def are_classes(names: Sequence[str]) -> str:
    """What to say of folders that have the name of a part and hold images themselves."""
    if len(names) == 1:
        return "holds images itself, so it is a class like the others"
    return "hold images themselves, so they are classes like the others"


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` among the folders of `root`, in any case."""
    there = {name.lower(): name for name in reversed(folders_in(root))}
    return next((root / there[name] for name in names if name in there), None)


def _others(root: Path) -> str:
    names = folders_in(root)
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
        raise UserError(
            f"{key_name}: every class of {images.folder} has a single image, so none can be kept for validation; "
            "add images, or give validation images with val_dir"
        )
    order = np.lexsort((_hashes(images, seed), images.targets))
    place = np.arange(len(images)) - (np.cumsum(counts) - counts)[images.targets[order]]  # within its class
    is_val = np.zeros(len(images), dtype=bool)
    is_val[order] = place < kept[images.targets[order]]
    return Subset(images, np.flatnonzero(~is_val)), Subset(images, np.flatnonzero(is_val))


def _hashes(images: FolderImages, seed: int) -> NDArray[np.uint64]:
    key = seed.to_bytes(8)
    digests = (hashlib.blake2b(images.relative(i), digest_size=8, key=key).digest() for i in range(len(images)))
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
