"""Whatever a program has in its hands as an image -> an upright Pillow image."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.decode import DecodeError, Mode, Reduction, convert, decode

# A path; the encoded bytes of a file; a file that is open for reading; a Pillow image; an array (H, W) or (H, W, C);
# a tensor (H, W) or (C, H, W), as PyTorch has them. C is 1 (grey), 3 (RGB) or 4 (RGBA).
ImageLike = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any] | Tensor
CHANNELS = (1, 3, 4)
_MANY = 4  # dimensions of an array or a tensor of several images


def is_one(images: object) -> bool:
    """Whether it is one image, and not several; what is no image at all counts as one, which `opened` refuses."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < _MANY
    if isinstance(images, str | Path | bytes | bytearray | memoryview | Image.Image) or hasattr(images, "read"):
        return True
    return not isinstance(images, Iterable)


def opened(
    image: ImageLike, mode: Mode, reduction: Reduction | None = None, budget: PixelBudget | None = None
) -> Image.Image:
    """One image, upright and in `mode`, made smaller as `reduction` says of its size; files within `budget`.

    Numbers of arrays and tensors are 0..255 if they are whole (0..65535 of 16 bits, without sign), and 0..1 if not.

    Raises:
        DecodeError: it cannot be decoded, or its shape or its numbers are not those of an image.
        TypeError: it is of no type that can be an image.
    """
    if isinstance(image, Image.Image):
        return convert(image, mode, reduction)
    if isinstance(image, str | Path):
        return decode(image, mode, reduction, budget)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image), mode, reduction, budget)
    if isinstance(image, Tensor):
        return convert(_of_array(_channels_last(image), "a tensor is (C, H, W) or (H, W)"), mode, reduction)
    if isinstance(image, np.ndarray):
        return convert(_of_array(image, "an array is (H, W, C) or (H, W)"), mode, reduction)
    if hasattr(image, "read"):
        return decode(_content(image), mode, reduction, budget)
    raise TypeError(
        "an image is a path, bytes, a file, a Pillow image, an array (H, W, C) or a tensor (C, H, W); "
        f"not {type(image).__name__}"
    )


def name_of(image: ImageLike) -> str:
    """What an error calls it."""
    if isinstance(image, str | Path):
        return str(image)
    name = getattr(image, "name", None)
    return name if isinstance(name, str) else "image"


def _content(file: BinaryIO) -> bytes:
    """All of an open file, from its beginning where it can be turned back."""
    if getattr(file, "seekable", bool)():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise DecodeError("the file is open in text mode; open it with mode 'rb'")
    return content


def _channels_last(tensor: Tensor) -> NDArray[Any]:
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()  # NumPy has no bfloat16
    if values.ndim == 3:
        values = values.permute(1, 2, 0)
    return values.numpy()


def _of_array(values: NDArray[Any], form: str) -> Image.Image:
    """An array (H, W, C) or (H, W) as a Pillow image of 8 bits."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in CHANNELS) or 0 in values.shape:
        shape = values.shape if not form.startswith("a tensor") or values.ndim != 3 else np.roll(values.shape, 1)
        raise DecodeError(f"its shape is ({', '.join(map(str, shape))}); {form}, and C is 1, 3 or 4")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(values)))


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise DecodeError(f"its numbers are of type {values.dtype}; an image has whole numbers or floats")
    low, high = (float(values.min()), float(values.max()))
    most = 1.0 if values.dtype.kind == "f" else 65535.0 if values.dtype == np.uint16 else 255.0
    if not (low >= 0 and high <= most):  # NaN is neither
        kind = "floats" if most == 1.0 else f"numbers of type {values.dtype}"
        raise DecodeError(
            f"its numbers go from {low:g} to {high:g}; {kind} go from 0 to {most:g}, before any normalisation"
        )
    return np.rint(values * (255.0 / most)).astype(np.uint8)
