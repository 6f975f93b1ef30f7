"""The door to every image set: a data set's name and its folders in, images out."""

from pathlib import Path
from typing import Literal

from t2t_vit.data.cifar import cifar
from t2t_vit.data.decode import MODES, Mode
from t2t_vit.data.embedded import fashion_mnist
from t2t_vit.data.folder import FolderImages
from t2t_vit.data.images import ImageSet, check_same_classes
from t2t_vit.data.subset import subset
from t2t_vit.errors import UserError

Split = Literal["train", "val"]
DATASETS = ("ImageNet", "FashionMNIST", "CIFAR10", "CIFAR100")


def open_images(
    split: Split,
    *,
    dataset: str,
    data_url: str = "",
    train_dir: str = "train",
    val_dir: str = "val",
    in_chans: int = 3,
    num_samples: int = -1,
    seed: int = 0,
) -> ImageSet:
    """The images of one split, in 1 (grey), 3 (RGB) or 4 (RGBA) channels.

    Args:
        dataset: `ImageNet` is any tree `data_url/train_dir/CLASS/...` and `data_url/val_dir/CLASS/...`.
        num_samples: a class-balanced part of so many images, drawn by `seed`; -1 for all.

    Raises:
        UserError: an unknown data set, or files that are missing, damaged or laid out otherwise.
    """
    images = _whole(split, dataset, data_url, val_dir if split == "val" else train_dir, _mode(in_chans))
    return subset(images, num_samples, seed, f"{split}_num_samples")


def open_training_images(
    *,
    dataset: str,
    data_url: str = "",
    train_dir: str = "train",
    val_dir: str = "val",
    in_chans: int = 3,
    train_num_samples: int = -1,
    val_num_samples: int = -1,
    seed: int = 0,
) -> tuple[ImageSet, ImageSet]:
    """The training and validation images of one data set; UserError also where their class lists differ."""
    mode = _mode(in_chans)
    train = _whole("train", dataset, data_url, train_dir, mode)
    val = _whole("val", dataset, data_url, val_dir, mode)
    where = [str(Path(data_url) / folder) for folder in (val_dir, train_dir)]
    check_same_classes(val.classes, train.classes, *where)
    return (
        subset(train, train_num_samples, seed, "train_num_samples"),
        subset(val, val_num_samples, seed, "val_num_samples"),
    )


def _whole(split: Split, dataset: str, data_url: str, folder: str, mode: Mode) -> ImageSet:
    match dataset:
        case "ImageNet":
            if not data_url:
                raise UserError("dataset ImageNet needs data_url: the folder that holds train_dir and val_dir")
            if not Path(data_url).is_dir():
                raise UserError(f"data_url {data_url} is not a folder; name the one that holds train_dir and val_dir")
            return FolderImages(Path(data_url) / folder, mode)
        case "FashionMNIST":
            return fashion_mnist(split, mode, data_url)
        case "CIFAR10" | "CIFAR100":
            return cifar(dataset, split, mode, data_url)
    raise UserError(f"dataset is {dataset!r}; choose from {', '.join(DATASETS)}")


def _mode(in_chans: int) -> Mode:
    if in_chans not in MODES:
        raise UserError(f"in_chans is {in_chans}; images have 1 (grey), 3 (RGB) or 4 (RGBA) channels")
    return MODES[in_chans]
