"""Image files of every kind to upright 8-bit pixels; what cannot be shown right is refused with a reason.

Pillow alone decodes. Its `convert` is not enough: it turns 16-bit grey all white, drops alpha where compositing is
meant, and ignores the EXIF orientation.
"""

import importlib
import importlib.util
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

Mode = Literal["L", "RGB", "RGBA"]

# Formats that are parsed by Pillow and the codec libraries in its wheels alone. Left out: those that start another
# program (EPS: Ghostscript), need a stub or a plugin (WMF, HDF5, GRIB), or have no reliable signature. The common ones
# come first: they are found before Pillow imports its other readers. (JPEG covers MPO.)
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "DIB", "ICO", "JPEG2000", "PCX", "QOI", "SGI", "TGA",
)  # fmt: skip
EXTENSIONS = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm",
    ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
# Read where pillow-heif is installed, which brings the codec that Pillow lacks.
HEIF_EXTENSIONS = frozenset({".heic", ".heif", ".hif"})
HEIF_INSTALL = "pip install pillow-heif"
MODES: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}  # input channels -> mode
# (width, height) of an image -> the power of two by which it may be made smaller before it is used.
Reduction = Callable[[tuple[int, int]], int]

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262  # 0: the smallest value is white


class DecodeError(ValueError):
    """An image that cannot be decoded; the message is the reason, without the name of the file."""


def is_image_ending(name: str) -> bool:
    """Whether a file of this name counts as an image: by its ending, in any case."""
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  # a million names
    return ending in EXTENSIONS or (ending in HEIF_EXTENSIONS and has_heif())


@cache
def has_heif() -> bool:
    """Whether HEIC and HEIF images can be read: pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def decode(source: str | Path | bytes | BinaryIO, mode: Mode, reduction: Reduction | None = None) -> Image.Image:
    """Read the first frame of an image, turn it upright and convert it to `mode`.

    Args:
        source: a path, the encoded bytes, or an open binary file.
        mode: `"RGB"` and `"L"` show transparent images on white; `"RGBA"` keeps alpha.
        reduction: gives the factor by which an image of its size may be made smaller, each new pixel the mean of
            factor x factor old ones; of JPEG up to 8 is left to the codec, which then decodes less.

    Raises:
        DecodeError: missing, empty, truncated, too large, or not an image of `FORMATS`.
    """
    try:
        with _file_of(source) as file:
            return _decode_file(file, mode, reduction)
    except DecodeError:
        raise
    except Exception as error:  # broken files make Pillow raise almost any type: struct.error, SyntaxError, IndexError
        raise DecodeError(_reason(error)) from error


def image_size(source: str | Path) -> tuple[int, int]:
    """(width, height) from the header of a file, as stored: before it is turned upright.

    Raises:
        DecodeError: missing, empty, too large, or not an image of `FORMATS`; the pixels are not looked at.
    """
    try:
        with _file_of(source) as file, _without_pillow_warnings(), _opened(file) as image:
            return image.size
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(_reason(error)) from error


@contextmanager
def _file_of(source: str | Path | bytes | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, str | Path):
        path = Path(source)
        if path.exists() and not path.is_file():  # opening a pipe would wait forever
            raise DecodeError("it is not a regular file")
        with path.open("rb") as file:
            yield file
    else:
        yield source


def convert(image: Image.Image, mode: Mode) -> Image.Image:
    """Turn an opened Pillow image upright and convert it to `mode`, by the rules of `decode`.

    Raises:
        DecodeError: its pixels cannot be read.
    """
    try:
        with _without_pillow_warnings():
            image.load()
            return to_mode(_upright(image), mode)
    except Exception as error:
        raise DecodeError(_reason(error)) from error


def to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """Convert loaded pixels to 8 bits a channel, without looking at the orientation.

    - 16-bit grey v becomes round(v / 257); an integer or float image whose range its format does not tell is taken
      as 0..1 (float), 0..255 or 0..65535, whichever fits, and otherwise stretched from its least to its largest value.
    - Alpha, and colours declared transparent, are composited on white unless `mode` is `"RGBA"`.
    """
    if image.mode == mode and (mode == "RGBA" or "transparency" not in image.info):
        return image
    if image.mode[0] in "IF":  # I, I;16, I;16B, ..., F: more than 8 bits a pixel
        image = _eight_bits(image)
    if image.mode == "LAB":
        image = image.convert("RGB")
    if not _has_alpha(image):
        return image.convert(mode)
    image = _with_straight_alpha(image)
    if mode == "RGBA":
        return image
    opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return opaque.convert(mode)


def _decode_file(file: BinaryIO, mode: Mode, reduction: Reduction | None) -> Image.Image:
    with _without_pillow_warnings(), _opened(file) as image:
        factor = 1 if reduction is None else reduction(image.size)
        if factor > 1:
            width, height = image.size
            image.draft(None, (-(-width // factor), -(-height // factor)))
            factor //= max(1, round(width / image.size[0]))
        image.load()
        upright = to_mode(_upright(image), mode)
        return upright.reduce(factor) if factor > 1 else upright


def _opened(file: BinaryIO) -> ImageFile.ImageFile:
    formats = (*FORMATS, "HEIF") if _is_heif(file) and _heif_is_registered() else FORMATS
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        if _is_heif(file) and not has_heif():
            raise DecodeError(f"it is a HEIC image, which needs pillow-heif: {HEIF_INSTALL}") from error
        file.seek(0, io.SEEK_END)
        if file.tell() == 0:
            raise DecodeError("the file is empty") from error
        raise


def _is_heif(file: BinaryIO) -> bool:
    if not file.seekable():
        return False
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


@cache
def _heif_is_registered() -> bool:
    """Bring the reader in, with the first image that needs it."""
    if has_heif():
        importlib.import_module("pillow_heif").register_heif_opener()
    return has_heif()


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata beside good pixels: the image is still worth having
        return image
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _with_straight_alpha(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    levels = Image.fromarray(_scaled(values, image))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, np.uint8(0), np.uint8(255))
        levels.putalpha(Image.fromarray(alpha))
    return levels


def _scaled(values: NDArray[np.generic], image: Image.Image) -> NDArray[np.uint8]:
    wide = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = _range(wide, image)
    levels = np.clip(np.rint((wide - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)
    inverted = _tiff_tag(image, _TIFF_PHOTOMETRIC, 1) == 0  # Pillow inverts such images of 8 bits only
    return 255 - levels if inverted else levels


def _range(values: NDArray[np.float32], image: Image.Image) -> tuple[float, float]:
    """The values that stand for black and white."""
    if image.mode.startswith("I;"):
        bits = _tiff_tag(image, _TIFF_BITS_PER_SAMPLE, 16)  # 12-bit samples arrive in the low bits of 16
        return 0.0, float(2**bits - 1)
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 0.0, 65535.0
    low, high = float(values.min()), float(values.max())
    known = (1.0, 255.0) if image.mode == "F" else (255.0, 65535.0)
    for white in known:
        if low >= 0.0 and high <= white:
            return 0.0, white
    return low, max(high, low + 1.0)


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return "it has too many pixels to be decoded safely"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or of a format that is not read"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read ({error.strerror})"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "the file is truncated"
    detail = " ".join(str(error).split())[:120] or type(error).__name__
    return f"its content is broken ({detail})"


class _Quiet:
    lock = threading.Lock()
    inside = 0
    filters: "warnings.catch_warnings[None] | None" = None


@contextmanager
def _without_pillow_warnings() -> Iterator[None]:
    """Silence the warnings of Pillow's own modules (odd metadata, large images) while it decodes.

    The first thread that comes in sets the filter and the last one out restores it, so that threads may decode at once.
    """
    with _Quiet.lock:
        if _Quiet.inside == 0:
            _Quiet.filters = warnings.catch_warnings()
            _Quiet.filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _Quiet.inside += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.inside -= 1
            if _Quiet.inside == 0 and _Quiet.filters is not None:
                _Quiet.filters.__exit__(None, None, None)
                _Quiet.filters = None
