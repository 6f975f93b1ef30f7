"""Every data set by its name: its name and its folders in, images out."""

from collections.abc import Callable
from pathlib import Path

from t2t_vit.data.cifar import cifar
from t2t_vit.data.decode import MODES, Mode
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.data.folder import FolderImages, Tree, split
from t2t_vit.data.images import ImageSet, Split, check_same_classes, subset
from t2t_vit.errors import UserError

Note = Callable[[str], None]
SPLITS: tuple[Split, Split] = ("train", "val")
DATASETS = ("ImageNet", "FashionMNIST", "CIFAR10", "CIFAR100")


def _silent(_: str) -> None:
    pass


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
    note: Note = _silent,
) -> ImageSet:
    """The images of one part, in 1 (grey), 3 (RGB) or 4 (RGBA) channels.

    Args:
        dataset: `ImageNet` is any tree `data_url/train_dir/CLASS/...` and `data_url/val_dir/CLASS/...`.
        train_dir, val_dir: None looks for the usual names (`TRAIN_NAMES` and `VAL_NAMES` of `folder`).
        val_split: share of each class of the training images that is the validation part where there is no `val_dir`;
            where there is no `train_dir` either, the folders of `data_url` are the classes.
        num_samples: a class-balanced part of so many images, drawn by `seed`; -1 for all.
        note: called with where the validation images come from, if that is not `val_dir` itself.

    Raises:
        UserError: an unknown data set, or files that are missing, damaged or laid out otherwise.
    """
    mode = _mode(in_chans)
    images: ImageSet
    if dataset != "ImageNet":
        images = _in_memory(part, dataset, data_url, mode)
    else:
        images = _one(part, _tree(data_url, train_dir, val_dir, val_split), mode, seed, note)
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
    note: Note = _silent,
) -> tuple[ImageSet, ImageSet]:
    """The training and validation images of one data set; UserError also where their class lists differ."""
    mode = _mode(in_chans)
    train: ImageSet
    val: ImageSet
    if dataset != "ImageNet":
        train, val = (_in_memory(part, dataset, data_url, mode) for part in SPLITS)
    else:
        tree = _tree(data_url, train_dir, val_dir, val_split)
        train, val = _both(tree, mode, seed, note)
    return (
        subset(train, train_num_samples, seed, "train_num_samples"),
        subset(val, val_num_samples, seed, "val_num_samples"),
    )


def _one(part: Split, tree: Tree, mode: Mode, seed: int, note: Note) -> ImageSet:
    if part == "train" and tree.val_split == 0:
        return FolderImages(tree.train(), mode)
    folder = tree.val()
    if folder is None:
        return _divided(tree, mode, seed, note)[SPLITS.index(part)]
    return FolderImages(tree.train() if part == "train" else folder, mode)


def _both(tree: Tree, mode: Mode, seed: int, note: Note) -> tuple[ImageSet, ImageSet]:
    """Training and validation images of a tree, each from its folder or one kept from the other."""
    folder = tree.val()
    if folder is None:
        return _divided(tree, mode, seed, note)
    train, val = FolderImages(tree.train(), mode), FolderImages(folder, mode)
    check_same_classes(val.classes, train.classes, str(val.folder), str(train.folder))
    if tree.val_dir is None:
        note(f"validation images are those of {folder}")
    if tree.val_split > 0:
        note(f"val_split {tree.val_split:g} is of no use: {folder} holds the validation images")
    return train, val


def _divided(tree: Tree, mode: Mode, seed: int, note: Note) -> tuple[ImageSet, ImageSet]:
    images = FolderImages(tree.train(), mode)
    train, val = split(images, tree.val_split, seed)
    note(
        f"no validation folder in {tree.root}: {tree.val_split:.3g} of each class of {images.folder} is kept for "
        f"validation, {len(val):,} of {len(images):,} images, chosen by their names and seed {seed}"
    )
    return train, val


def _tree(data_url: str, train_dir: str | None, val_dir: str | None, val_split: float) -> Tree:
    if not data_url:
        raise UserError("dataset ImageNet needs data_url: the folder that holds train_dir and val_dir")
    if not Path(data_url).is_dir():
        raise UserError(f"data_url {data_url} is not a folder; name the one that holds train_dir and val_dir")
    return Tree(Path(data_url), train_dir, val_dir, val_split)


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
