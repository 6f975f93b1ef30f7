"""CIFAR-10 and CIFAR-100 in their binary layout (Krizhevsky 2009, cs.toronto.edu/~kriz/cifar.html).

A record is its labels, a byte each (CIFAR-10: the class; CIFAR-100: the superclass, then the class), and 3 x 32 x 32
bytes of red, green and blue planes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from t2t_vit.data.decode import Mode
from t2t_vit.data.images import ArrayImages, Split
from t2t_vit.errors import UserError
from t2t_vit.files import read_at_most, reason_of

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_MOST_RECORDS = 50_000  # of a file
_LONGEST_NAMES = 100_000  # bytes of the file of names


@dataclass(frozen=True)
class _Layout:
    title: str
    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: int  # bytes before the pixels; the last one is the class
    pickled: tuple[str, ...]  # a file that only the python layout has


_LAYOUTS = {
    "CIFAR10": _Layout(
        "CIFAR-10",
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        1,
        ("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1", "test_batch", "batches.meta"),
    ),
    "CIFAR100": _Layout(
        "CIFAR-100",
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        ("train.bin",),
        ("test.bin",),
        "fine_label_names.txt",
        2,
        ("cifar-100-python", "cifar-100-python.tar.gz", "train", "test", "meta"),
    ),
}


def cifar(dataset: Literal["CIFAR10", "CIFAR100"], split: Split, mode: Mode, data_url: str) -> ArrayImages:
    """The training or test images; `data_url` is the folder of the `.bin` files or the one that holds it.

    Raises:
        UserError: no such folder, the python (pickle) layout, a missing or truncated file, a label without a name.
    """
    layout = _LAYOUTS[dataset]
    folder = _folder(layout, data_url)
    classes = _names(folder / layout.names)
    files = layout.train if split == "train" else layout.test
    records = np.concatenate([_records(folder / name, layout, len(classes)) for name in files])
    planes = records[:, layout.labels :].reshape(-1, 3, _SIDE, _SIDE)
    pixels = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return ArrayImages(pixels, records[:, layout.labels - 1].astype(np.int64), classes, mode, f"{layout.title} {split}")


def _folder(layout: _Layout, data_url: str) -> Path:
    if not data_url:
        raise UserError(f"{layout.title} needs data_url: the folder that holds the files of {layout.archive}")
    given = Path(data_url)
    if not given.is_dir():
        raise UserError(f"data_url {given} is not a folder; unpack {layout.archive} and give its folder")
    for folder in (given, given / layout.folder):
        if any((folder / name).is_file() for name in (*layout.train, *layout.test)):
            return folder
    if any((given / name).exists() for name in layout.pickled):
        raise UserError(
            f"{given} holds the python layout of {layout.title}, which is pickle and can run code when read;"
            f" take {layout.archive} instead"
        )
    if (given / layout.archive).is_file():
        raise UserError(f"{given / layout.archive} is an archive; unpack it in the same folder")
    raise UserError(f"{given} has no {layout.test[0]}; data_url must hold the files of {layout.archive}")


def _names(path: Path) -> tuple[str, ...]:
    try:
        lines = read_at_most(path, _LONGEST_NAMES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the class names in {path} cannot be read ({reason_of(error)}); unpack it from the archive again"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(f"{path} contains no class names; unpack it from the archive again")
    return names


def _records(path: Path, layout: _Layout, classes: int) -> NDArray[np.uint8]:
    length = layout.labels + _PIXELS
    try:
        content = np.frombuffer(read_at_most(path, _MOST_RECORDS * length), np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); unpack it from {layout.archive} again") from error
    if content.size == 0 or content.size % length:
        raise UserError(
            f"{path} is truncated or damaged: {content.size} bytes are not a whole number of {length}-byte records;"
            " unpack it again"
        )
    records = content.reshape(-1, length)
    highest = int(records[:, layout.labels - 1].max())
    if highest >= classes:
        raise UserError(f"{path} has the label {highest} but {layout.names} names {classes} classes; unpack both again")
    return records
