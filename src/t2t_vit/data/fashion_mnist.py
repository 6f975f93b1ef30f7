"""Fashion-MNIST: the part of it that is installed with the package, or the full set from its IDX files.

12,000 training and 2,000 test images of 28 x 28 grey pixels in 10 classes come with the package; the full set has
60,000 and 10,000. A score on the part is not "the Fashion-MNIST accuracy".
(Xiao, Rasul and Vollgraf, arXiv 1708.07747.)
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import Mode
from t2t_vit.data.images import ArrayImages, Split
from t2t_vit.errors import UserError
from t2t_vit.files import open_regular, reason_of

CLASSES = (
    "t-shirt_top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot",
)  # fmt: skip
_SIDE = 28
_SHEETS = Path(__file__).parent / "fashion_mnist"
_SHEET_SPLIT = {"train": "train", "val": "test"}
# File name, first digits of the SHA-256 of the uncompressed content (MNIST's files have the same names), header bytes.
_IMAGES = {
    "train": ("train-images-idx3-ubyte", "c59f468a2f672dc8"),
    "val": ("t10k-images-idx3-ubyte", "5b4141f0afbad91e"),
}
_LABELS = {
    "train": ("train-labels-idx1-ubyte", "bad3541b69d91243"),
    "val": ("t10k-labels-idx1-ubyte", "0402a96d92fd2663"),
}
_IMAGES_HEADER, _LABELS_HEADER = 16, 8
_LARGEST = _IMAGES_HEADER + 60_000 * _SIDE * _SIDE  # bytes of the largest of the four files, unpacked


def fashion_mnist(split: Split, mode: Mode, data_url: str = "") -> ArrayImages:
    """The embedded images, or all of them where `data_url` is a folder with the four IDX files, gzipped or not.

    Debian's package `dataset-fashion-mnist` installs such a folder.

    Raises:
        UserError: `data_url` is given but is not that folder, or a file is damaged or another data set's.
    """
    if data_url:
        pixels, targets = _full(Path(data_url), split)
        return ArrayImages(pixels, targets, CLASSES, mode, f"Fashion-MNIST {split}")
    sheets = [_sheet(_SHEETS / f"{_SHEET_SPLIT[split]}_{i}_{name}.png") for i, name in enumerate(CLASSES)]
    targets = np.repeat(np.arange(len(CLASSES), dtype=np.int64), [len(sheet) for sheet in sheets])
    return ArrayImages(np.concatenate(sheets), targets, CLASSES, mode, f"embedded Fashion-MNIST {split}")


def _sheet(path: Path) -> NDArray[np.uint8]:
    """A sheet of tiles, row by row -> (tiles, 28, 28)."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    rows = pixels.shape[0] // _SIDE
    return pixels.reshape(rows, _SIDE, -1, _SIDE).transpose(0, 2, 1, 3).reshape(-1, _SIDE, _SIDE)


def _full(folder: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not folder.is_dir():
        raise UserError(f"data_url {folder} is not a folder; leave it empty for the embedded Fashion-MNIST")
    images = _content(folder, *_IMAGES[split])
    labels = _content(folder, *_LABELS[split])
    pixels = np.frombuffer(images, np.uint8, offset=_IMAGES_HEADER).reshape(-1, _SIDE, _SIDE)
    return pixels, np.frombuffer(labels, np.uint8, offset=_LABELS_HEADER).astype(np.int64)


def _content(folder: Path, name: str, digest: str) -> bytes:
    found = next((path for path in (folder / f"{name}.gz", folder / name) if path.exists()), None)
    if found is None:
        raise UserError(
            f"{folder} has no {name}.gz; data_url must hold the four IDX files of Fashion-MNIST,"
            " or be empty for the embedded part"
        )
    try:
        with open_regular(found) as file, gzip.open(file) if found.suffix == ".gz" else file as unpacked:
            content = unpacked.read(_LARGEST + 1)  # a gzip file of megabytes may unpack to gigabytes
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{found} cannot be read or is damaged ({reason_of(error)}); download it again") from error
    if not hashlib.sha256(content).hexdigest().startswith(digest):
        raise UserError(
            f"{found} is damaged or not Fashion-MNIST's (its content has another SHA-256); download it again"
        )
    return content
