"""Every data set by its name: its name and its folders in, images out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.cifar import cifar
from t2t_vit.data.decode import MODES, Mode
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.data.folder import FolderImages, Tree, are_classes, check_known, check_level, split
from t2t_vit.data.images import ImageSet, Note, Split, by_name, subset
from t2t_vit.data.scan import Scan, class_name, neighbours, scan, some
from t2t_vit.errors import UserError
from t2t_vit.notes import counted, silent
from t2t_vit.settings.schema import Config

SPLITS: tuple[Split, Split] = ("train", "val")
_A_FOLDER = "a folder of images, as FOLDER/CLASS or FOLDER/train/CLASS and FOLDER/val/CLASS"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
DATASETS = ("ImageNet", "FashionMNIST", "CIFAR10", "CIFAR100")


def open_images(
    part: Split,
    *,
    dataset: str,
    data_url: str = "",
    train_dir: str | None = None,
    val_dir: str | None = None,
    val_split: float = 0.0,
    in_chans: int = 3,
    num_samples: int = -1,
    seed: int = 0,
    split_seed: int = 0,
    max_pixels: int = Config.max_pixels,
    own: Sequence[Path] = (),
    note: Note = silent,
    classes: Sequence[str] | None = None,
    path: str = "",
) -> ImageSet:
    """The images of one part, in 1 (grey), 3 (RGB) or 4 (RGBA) channels.

    Args:
        dataset: `ImageNet` is any tree `data_url/train_dir/CLASS/...` and `data_url/val_dir/CLASS/...`.
        train_dir, val_dir: None looks for the usual names (`TRAIN_NAMES` and `VAL_NAMES` of `folder`).
        val_split: share of each class of the training images that is the validation part where there is no `val_dir`;
            where there is no `train_dir` either, the folders of `data_url` are the classes.
        num_samples: a class-balanced part of so many images, drawn by `seed`; -1 for all.
        split_seed: chooses which images `val_split` keeps.
        max_pixels: of the largest image that is decoded, see `PixelBudget`.
        own: folders that a run writes into, which are never classes.
        note: called with where the validation images come from, if that is not `val_dir` itself, and what is left out.
        classes, path: of a network, by whose names the images are numbered, and the file that it came from.

    Raises:
        UserError: an unknown data set, or files that are missing, damaged or laid out otherwise, or of a class that is
            none of `classes`.
    """
    mode = _mode(in_chans)
    images: ImageSet
    if dataset != "ImageNet":
        images = _in_memory(part, dataset, data_url, mode)
    else:
        tree = _tree(data_url, train_dir, val_dir, val_split)
        opening = _Opening(mode, split_seed, own, note, tree.root, PixelBudget(max_pixels), classes or ())
        images = _one(part, tree, opening)
    if classes is not None:
        images = by_name(images, classes, "the validation images", path, note)
    return subset(images, num_samples, seed, f"{part}_num_samples")


def open_training_images(
    *,
    dataset: str,
    data_url: str = "",
    train_dir: str | None = None,
    val_dir: str | None = None,
    val_split: float = 0.0,
    in_chans: int = 3,
    train_num_samples: int = -1,
    val_num_samples: int = -1,
    seed: int = 0,
    val_seed: int = 0,
    split_seed: int = 0,
    max_pixels: int = Config.max_pixels,
    own: Sequence[Path] = (),
    note: Note = silent,
    recorded: "Recorded | None" = None,
    classes: Sequence[str] | None = None,
) -> tuple[ImageSet, ImageSet]:
    """The training and validation images of one data set, whose classes are those of the training images.

    Args:
        seed, val_seed: draw the class-balanced parts of `train_num_samples` and `val_num_samples` images.
        recorded: take these files, there or not, in place of what the folders hold now.
        classes: the order of the classes, where their names are these.

    Raises:
        UserError: as of `open_images`; fewer than two classes; validation images of a class that is not trained.
    """
    mode = _mode(in_chans)
    train: ImageSet
    val: ImageSet
    if dataset != "ImageNet":
        train, val = (_in_memory(part, dataset, data_url, mode) for part in SPLITS)
    else:
        tree = _tree(data_url, train_dir, val_dir, val_split)
        opening = _Opening(mode, split_seed, own, note, tree.root, PixelBudget(max_pixels))
        if recorded is not None:
            whole = train_num_samples == val_num_samples == -1
            return _again(tree, opening, recorded, whole)
        train, val = _both(tree, opening)
    if classes is not None and set(map(class_name, classes)) == set(map(class_name, train.classes)):
        train, val = (by_name(images, classes, "the data", "the run", note) for images in (train, val))
    return (
        subset(train, train_num_samples, seed, "train_num_samples"),
        subset(val, val_num_samples, val_seed, "val_num_samples"),
    )


def validation_folder(
    data_url: str, train_dir: str | None = None, val_dir: str | None = None, val_split: float = 0.0
) -> Path:
    """The folder whose classes the validation images lie in; that of the training images, where it is a share of them.

    Raises:
        UserError: there is none.
    """
    tree = _tree(data_url, train_dir, val_dir, val_split)
    return tree.val() or tree.train()


@dataclass(frozen=True)
class _Opening:
    """How folders are opened, and where notes about them go."""

    mode: Mode
    split_seed: int
    own: Sequence[Path]
    note: Note
    root: Path
    budget: PixelBudget
    classes: Sequence[str] = ()

    def found(self, folder: Path) -> Scan:
        found = scan(folder, self.own)
        found.check_some()
        if self.classes:
            check_known(found, self.root, self.classes)
        for text in found.remarks():
            self.note(text)
        return found


def _one(part: Split, tree: Tree, opening: _Opening) -> ImageSet:
    if part == "train" and tree.val_split == 0:
        return _of(tree.train(), opening)
    if part == "val" and (whole := tree.whole()) is not None:
        opening.note(f"no validation folder in {whole}: all of its images are used")
        return _of(whole, opening)
    folder = tree.val()
    if folder is None:
        return _divided(tree, opening, _of(tree.train(), opening))[SPLITS.index(part)]
    return _of(tree.train() if part == "train" else folder, opening)


def _both(tree: Tree, opening: _Opening) -> tuple[ImageSet, ImageSet]:
    """Training and validation images of a tree, each from its folder or one kept from the other."""
    folder = tree.val()
    train = _training(tree, opening)
    if tree.train_dir is None and (left_out := tree.beside(folder)):
        used = train.folder.name if folder is None else f"{train.folder.name} and {folder.name}"
        opening.note(f"left out of {tree.root}: {some(left_out)}; used: {used} (train_dir and val_dir choose)")
    if folder is None:
        return _divided(tree, opening, train)
    val = by_name(_of(folder, opening), train.classes, str(folder), str(train.folder), opening.note)
    if tree.val_split > 0:
        opening.note(f"validation images are those of {folder}: val_split {tree.val_split:g} is not needed")
    elif tree.val_dir is None:
        opening.note(f"validation images are those of {folder}")
    return train, val


def _of(folder: Path, opening: _Opening) -> FolderImages:
    return FolderImages(folder, opening.mode, opening.found(folder), budget=opening.budget)


def _training(tree: Tree, opening: _Opening) -> FolderImages:
    """The images of the training folder, of two classes or more."""
    folder = tree.train()
    found = opening.found(folder)
    found.check_complete()
    is_root = folder == tree.root
    if is_root:
        check_level(found, Path(), "data_url", guess=tree.train_dir is None)
    else:
        check_level(found, tree.root, "train_dir", guess=tree.train_dir is None)
    if is_root and (parts := tree.parts_as_classes()):
        opening.note(
            f"{', '.join(parts)} in {folder} {are_classes(parts)}; in a split the images would lie in {parts[0]}/CLASS"
        )
    return FolderImages(folder, opening.mode, found, budget=opening.budget)


@dataclass(frozen=True)
class Recorded:
    """The images that a run was begun with: CLASS/PATH of each, in their order, and the classes in theirs."""

    train: Sequence[bytes]
    val: Sequence[bytes]
    classes: Sequence[str]


def _again(tree: Tree, opening: _Opening, recorded: Recorded, whole: bool) -> tuple[ImageSet, ImageSet]:
    """The images of a continued run. Images removed since then keep their place and count as unreadable.

    Args:
        whole: whether the run took all the images of its folders.
    """
    folder = tree.train()
    val_folder = tree.val() or folder
    there = {place: _files_in(place, opening) for place in {folder, val_folder}}
    parts = (
        (folder, recorded.train, "training", "training replaces them"),
        (val_folder, recorded.val, "validation", "not counted"),
    )
    for place, names, what, instead in parts:
        gone = [os.fsdecode(name) for name in names if name not in there[place]]
        if gone:
            opening.note(
                f"{len(gone):,} of the {counted(len(names), f'{what} image')} of the run "
                f"{'is' if len(gone) == 1 else 'are'} no longer in {place} ({some(gone)}): {instead}"
            )
    for place in sorted(there) if whole else ():
        mine = {name for at, names, _, _ in parts if at == place for name in names}
        new = sorted(os.fsdecode(name) for name in there[place] - mine)
        if new:
            opening.note(
                f"left out, because the run began without them: {counted(len(new), 'new image')} in {place} "
                f"({some(new)}); a "
                "new run uses all of them"
            )
    return (
        FolderImages.of_files(folder, opening.mode, recorded.classes, recorded.train, budget=opening.budget),
        FolderImages.of_files(val_folder, opening.mode, recorded.classes, recorded.val, budget=opening.budget),
    )


def _files_in(folder: Path, opening: _Opening) -> set[bytes]:
    by_class = scan(folder, opening.own).by_class()
    return {os.fsencode(path) for paths in by_class.values() for path in paths}


def _divided(tree: Tree, opening: _Opening, images: FolderImages) -> tuple[ImageSet, ImageSet]:
    train, val = split(images, tree.val_split, opening.split_seed)
    opening.note(
        f"no validation folder in {tree.root}: {tree.val_split:.3g} of each class of {images.folder} is kept for "
        f"validation, {len(val):,} of {counted(len(images), 'image')}, chosen by their names and split_seed "
        f"{opening.split_seed}"
    )
    return train, val


def _tree(data_url: str, train_dir: str | None, val_dir: str | None, val_split: float) -> Tree:
    if not data_url:
        raise UserError(f"dataset ImageNet needs data_url: {_A_FOLDER}")
    if not Path(data_url).is_dir():
        raise UserError(f"data_url {data_url} {_why_no_folder(data_url)}")
    return Tree(Path(data_url), train_dir, val_dir, val_split)


def _why_no_folder(data_url: str) -> str:
    if "://" in data_url:
        return f"is an address; download it, unpack it, and give {_A_FOLDER}"
    if not os.path.lexists(data_url):
        return f"does not exist{neighbours(Path(data_url))}; give {_A_FOLDER}"
    if data_url.lower().endswith(_ARCHIVES):
        return f"is an archive; unpack it, and give {_A_FOLDER}"
    return f"is not a folder; give {_A_FOLDER}"


def _in_memory(part: Split, dataset: str, data_url: str, mode: Mode) -> ImageSet:
    match dataset:
        case "FashionMNIST":
            return fashion_mnist(part, mode, data_url)
        case "CIFAR10" | "CIFAR100":
            return cifar(dataset, part, mode, data_url)
    raise UserError(f"dataset is {dataset!r}; choose from {', '.join(DATASETS)}")


def _mode(in_chans: int) -> Mode:
    if in_chans not in MODES:
        raise UserError(f"in_chans is {in_chans}; images have 1 (grey), 3 (RGB) or 4 (RGBA) channels")
    return MODES[in_chans]
