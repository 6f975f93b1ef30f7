"""Where in a folder of pictures the training and the validation images lie."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t2t_vit.errors import UserError

# The names that are looked for, in this order and in any case, where none is given.
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("validation_preprocess", "val", "valid", "validation")
# Parts of a data set that must not be taken for classes. Test images are taken only when they are named: a checkpoint
# that was chosen by them says nothing about new pictures.
PARTS = frozenset({*TRAIN_NAMES, *VAL_NAMES, "test", "testing"})


@dataclass(frozen=True)
class Tree:
    """A folder `root` of pictures as its user describes it.

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
        found = _first(self.root, TRAIN_NAMES) if self.train_dir is None else self.root / self.train_dir
        usual = self.root / TRAIN_NAMES[0]
        if found is not None or usual.exists():
            return found or usual
        parts = [name for name in _folders(self.root) if name.lower() in PARTS]
        if parts or (self.val_dir is not None and (self.root / self.val_dir).exists()):
            raise UserError(
                f"{self.root} holds {_some(parts)}but no folder train; name the one with train_dir (. is {self.root})"
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
        found = _first(self.root, VAL_NAMES) if self.val_dir is None else self.root / self.val_dir
        if found is not None and (self.val_split == 0 or found.exists()):
            return found  # what is wrong with a folder that is missing is said when it is opened
        if self.val_split == 0:
            raise UserError(
                f"{self.root} holds no validation folder ({', '.join(VAL_NAMES)}){_others(self.root)}; name it with "
                "val_dir, or keep a share of each class of the training images with val_split 0.2"
            )
        return None


def _first(root: Path, names: Sequence[str]) -> Path | None:
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
    return f" but {_some(names).rstrip()}" if names else " nor any other"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ... " if len(names) > most else " ") if names else ""
