"""Image files of every kind to upright 8-bit pixels; what cannot be shown right is refused with a reason.

Pillow alone decodes. Its `convert` is not enough: it turns 16-bit grey all white, drops alpha where compositing is
meant, and ignores the EXIF orientation.
"""

import ctypes
import importlib
import importlib.util
import io
import logging
import os
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from t2t_vit.data.budget import MAX_PIXELS, MOST_PIXELS, PixelBudget, image_turn
from t2t_vit.data.image_memory import (
    AT_ONCE,
    MOST_OF_PHONES,
    PHONES,
    allowed,
    bytes_to_decode,
    images_in_icon,
    jpeg2000_levels,
    jpeg_coefficients,
    megabytes,
)
from t2t_vit.data.png import bytes_by_bands, decode_by_bands, has_bands
from t2t_vit.data.webp import bytes_beside, decode_still
from t2t_vit.files import open_regular
from t2t_vit.platforms import loaded_libraries
from t2t_vit.settings.schema import PIXELS

Mode = Literal["L", "RGB", "RGBA"]
Result = TypeVar("Result")

# Formats that only Pillow and the codec libraries in its wheels parse. Excluded: those that start another
# program (EPS: Ghostscript), need a stub or a plugin (WMF, HDF5, GRIB), or have no reliable signature. The common ones
# come first: they are found before Pillow imports its other readers. (JPEG covers MPO.)
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "DIB", "ICO", "JPEG2000", "PCX", "QOI", "SGI", "TGA",
)  # fmt: skip
EXTENSIONS = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm",
    ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
# Read if pillow-heif is installed, which has the codec that Pillow lacks.
HEIF_EXTENSIONS = frozenset({".heic", ".heif", ".hif"})
HEIF_INSTALL = "pip install pillow-heif"
MODES: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}  # input channels -> mode
# (width, height) of an image -> the power of two by which it may be reduced before use.
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
_MOST_BYTES = 2**30  # largest file of a format whose codec reads all bytes; other formats are read piece by piece
_MANY_BYTES = 2**23  # larger such files are read only while no other large image is decoded
_MOST_PIECES = 1_000_000  # most read calls per file; a PNG of a gigabyte in the usual chunks has 400,000
_MOST_OF_QOI = 2**25  # the same for QOI: Pillow reads it pixel by pixel, a second per million
_PIXEL_BYTES = 4  # of a pixel of the budget
_ICO_BYTES = 8  # a pixel: Pillow makes an image and a mask
_ICO_SIGNATURE = b"\0\0\1\0"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})


class DecodeError(ValueError):
    """An image that cannot be decoded; the message is the reason, without the name of the file."""


class TooManyPixelsError(DecodeError):
    """More than `max_pixels`, or than memory is allowed for."""


class _NotHalvedError(Exception):
    """The codec of JPEG 2000 fails where it is asked to halve the image."""


def is_image_ending(name: str) -> bool:
    """Whether a file of this name counts as an image: by its ending, in any case."""
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  # a million names
    return ending in EXTENSIONS or (ending in HEIF_EXTENSIONS and has_heif())


@cache
def has_heif() -> bool:
    """Whether HEIC and HEIF images can be read: pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def decode(
    source: str | Path | bytes | memoryview | BinaryIO,
    mode: Mode,
    reduction: Reduction | None = None,
    budget: PixelBudget | None = None,
) -> Image.Image:
    """Read the first frame of an image, turn it upright and convert it to `mode`.

    Args:
        source: a path, the encoded bytes, or an open binary file.
        mode: `"RGB"` and `"L"` show transparent images on white; `"RGBA"` keeps alpha.
        reduction: gives the factor by which an image of its size may be made smaller, each new pixel the mean of
            factor x factor old ones; of JPEG up to 8 is left to the codec, which then decodes less.
        budget: how large an image may be, and how many pixels are decoded at a time; without it those of this process.

    Raises:
        DecodeError: missing, empty, truncated, too large, or not an image of `FORMATS`.
    """
    try:
        with image_turn(), _file_of(source) as file:
            return _despite_texts(file, lambda file: _decode_file(file, mode, reduction, budget or _of_this_process()))
    except Exception as error:  # broken files make Pillow raise almost any type: struct.error, SyntaxError, IndexError
        reason = _reason(error)
    # Raised here: the frames of the decoder's error would keep the file and its pixels in memory.
    raise DecodeError(reason)


def image_size(source: str | Path | BinaryIO, budget: PixelBudget | None = None) -> tuple[int, int]:
    """(width, height) from the header of a file, as stored: before it is turned upright.

    Raises:
        DecodeError: missing, empty, too large, or not an image of `FORMATS`; the pixels are not looked at.
    """
    try:
        with image_turn(), _file_of(source) as file:
            return _despite_texts(file, lambda file: _size_of(file, budget or _of_this_process()))
    except Exception as error:
        kind = TooManyPixelsError if isinstance(error, TooManyPixelsError) else DecodeError
        reason = _reason(error)
    raise kind(reason)


def check_header(file: BinaryIO) -> None:
    """Refuse what does not begin as an image, however many pixels it claims.

    Raises:
        DecodeError: as `image_size`.
    """
    with suppress(TooManyPixelsError):
        image_size(file)


@cache
def _of_this_process() -> PixelBudget:
    return PixelBudget()


@contextmanager
def _file_of(source: str | Path | bytes | memoryview | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, bytes | memoryview):
        yield _CountedBytes(source)
    elif isinstance(source, str | Path):
        raw = cast(io.FileIO, cast(io.BufferedReader, open_regular(source)).detach())
        with raw, _CountedFile(raw) as file:
            yield cast(BinaryIO, file)
    else:
        yield source


class _Counted:
    """Refuses to be read in more than `_MOST_PIECES` pieces. A header of millions of tiny chunks, comments or blanks
    would take memory for each of them, and minutes."""

    pieces, most, refusal = 0, 0, ""

    def read(self, size: int | None = -1) -> bytes:
        self.pieces += 1
        most = self.most or _MOST_PIECES
        if self.pieces > most:
            raise DecodeError(self.refusal or f"it has more than {most:,} pieces")
        content: bytes = super().read(size)  # type: ignore[misc]
        return content


class _CountedBytes(_Counted, io.BytesIO):
    pass


class _CountedFile(_Counted, io.BufferedReader):
    pass


def convert(image: Image.Image, mode: Mode, reduction: Reduction | None = None) -> Image.Image:
    """Turn an opened Pillow image upright and convert it to `mode`, by the rules of `decode`.

    Raises:
        DecodeError: its pixels cannot be read.
    """
    try:
        with _without_pillow_warnings():
            image.load()
            factor = 1 if reduction is None else reduction(image.size)
            return _upright(to_mode(image, mode, factor), _orientation(image))
    except Exception as error:
        reason = _reason(error)
    raise DecodeError(reason)


def to_mode(image: Image.Image, mode: Mode, factor: int = 1) -> Image.Image:
    """Convert loaded pixels to 8 bits a channel, without looking at the orientation, and make them smaller by `factor`.

    - 16-bit grey v becomes round(v / 257); an integer or float image whose range its format does not tell is taken
      as 0..1 (float), 0..255 or 0..65535, whichever fits, and otherwise stretched from its least to its largest value.
    - Alpha, and colours declared transparent, are composited on white unless `mode` is `"RGBA"`.

    Beside the image and the result it takes memory for some rows only.
    """
    if image.mode == mode and (mode == "RGBA" or "transparency" not in image.info):
        return image.reduce(factor) if factor > 1 else image
    levels = _levels_of(image) if image.mode[0] in "IF" else None  # I, I;16, I;16B, ..., F: more than 8 bits a pixel
    if image.width * image.height <= AT_ONCE:
        converted = _rows_to_mode(image, mode, levels)
        return converted.reduce(factor) if factor > 1 else converted
    result = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    for top, rows in _in_rows(image, factor):
        converted = _rows_to_mode(rows, mode, levels)
        result.paste(converted.reduce(factor) if factor > 1 else converted, (0, top // factor))
    return result


def _in_rows(image: Image.Image, factor: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """The image from top to bottom, in pieces of `AT_ONCE` pixels and rows that `factor` divides: where each begins,
    and its rows."""
    count = max(1, AT_ONCE // image.width // factor) * factor
    for top in range(0, image.height, count):
        yield top, image.crop((0, top, image.width, min(image.height, top + count)))


def _rows_to_mode(image: Image.Image, mode: Mode, levels: "_Levels | None") -> Image.Image:
    if levels is not None:
        image = _eight_bits(image, levels)
    if image.mode == "LAB":
        image = image.convert("RGB")
    if not _has_alpha(image):
        return image.convert(mode)
    image = _with_straight_alpha(image)
    if mode == "RGBA":
        return image
    opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return opaque.convert(mode)


def _decode_file(file: BinaryIO, mode: Mode, reduction: Reduction | None, budget: PixelBudget) -> Image.Image:
    try:
        return _decode_as(file, mode, reduction, budget)
    except _NotHalvedError:  # some channel or tile has fewer levels than the header says
        pass
    return _decode_as(file, mode, reduction, budget, halves=False)


def _decode_as(
    file: BinaryIO, mode: Mode, reduction: Reduction | None, budget: PixelBudget, *, halves: bool = True
) -> Image.Image:
    """As `_decode_file`; without `halves`, JPEG 2000 is made smaller after it is decoded, not by its codec.

    Raises:
        _NotHalvedError: JPEG 2000 may be decodable without `halves`.
    """
    with _without_pillow_warnings(budget.most_pixels), _opened(file, budget) as image:
        whole = image.size
        factor = 1 if reduction is None else reduction(whole)
        coefficients = jpeg_coefficients(image) if isinstance(image, JpegImageFile) else 0.0
        decoded, beside, levels = whole, None, 0
        if image.format == "JPEG2000":
            most = jpeg2000_levels(file) if halves else 0
            levels, decoded, factor = _halved(whole, factor, most)
            taken = bytes_to_decode(image, decoded, mode, factor)
            if reduction is not None and not budget.max_pixels and _is_too_much(taken, file):
                factor = max(factor << levels, reduction((2 * whole[0], 2 * whole[1])))
                levels, decoded, factor = _halved(whole, factor, most)  # 1.5 times the network's input stay
            image.reduce = levels  # type: ignore[method-assign, assignment]  # how often the codec halves this format
            # Pillow rounds where the codec rounds up, and then calls the image broken.
            image._size = (decoded[0] << levels, decoded[1] << levels)
        elif factor > 1:
            image.draft(None, (-(-whole[0] // factor), -(-whole[1] // factor)))
            decoded = image.size
            factor //= max(1, round(whole[0] / decoded[0]))
        taken = bytes_to_decode(image, decoded, mode, factor, coefficients=coefficients)
        if image.format == "WEBP" and _is_too_much(taken, file):
            beside = bytes_beside(_content_of(file))
            taken = taken if beside is None else bytes_to_decode(image, decoded, mode, factor, beside=beside)
        if has_bands(image) and _is_too_much(taken, file) and (by_bands := bytes_by_bands(whole, mode, factor)) < taken:
            taken = by_bands
            decode_by_bands(image, mode, factor, partial(to_mode, mode=mode, factor=factor))
            factor = 1
        _check_memory(image.format, whole, taken, file, budget)
        budget.take(taken // _PIXEL_BYTES)
        pixels = image if beside is None else decode_still(_content_of(file), whole, image.mode)
        if image.format == "TIFF":
            _silence_libtiff()
        try:
            pixels.load()
        except OSError as error:
            if levels:
                raise _NotHalvedError from error
            raise
        if image.format == "JPEG2000":
            image.reduce = 0  # type: ignore[method-assign, assignment]  # it hides the method of this name
        turned = _orientation(image)
        converted = to_mode(pixels, mode, factor)
    del image, pixels  # free them before the result is used
    return _upright(converted, turned)


def _halved(whole: tuple[int, int], factor: int, most: int) -> tuple[int, tuple[int, int], int]:
    """How often a codec that can do so `most` times halves an image, what it gives, and the factor that is left."""
    levels = min(most, factor.bit_length() - 1)
    return levels, (-(-whole[0] >> levels), -(-whole[1] >> levels)), factor >> levels


def _size_of(file: BinaryIO, budget: PixelBudget) -> tuple[int, int]:
    with _without_pillow_warnings(budget.most_pixels), _opened(file, budget) as image:
        width, height = image.size
        smallest = (width // 8, height // 8) if image.format in ("JPEG", "MPO", "JPEG2000") else (width, height)
        beside = 0 if image.format == "WEBP" else None
        taken = bytes_to_decode(image, smallest, "L", 8, beside=beside)  # at the least, whatever will be asked for
        if has_bands(image):
            taken = min(taken, bytes_by_bands(image.size, "L", 8))
        _check_memory(image.format, image.size, taken, file, budget)
        return width, height


def _is_too_much(taken: int, file: BinaryIO) -> bool:
    # The size of a file within a compressed archive is known when all of it is unpacked.
    return taken > allowed(0) and taken > allowed(_bytes_of(file))


def _check_memory(kind: str | None, size: tuple[int, int], taken: int, file: BinaryIO, budget: PixelBudget) -> None:
    """Refuse an image that takes more memory than a file of its size may take, unless the user set `max_pixels`."""
    width, height = size
    if budget.max_pixels or not _is_too_much(taken, file) or (kind in PHONES and width * height <= MOST_OF_PHONES):
        return
    raise TooManyPixelsError(
        f"its {width:,} x {height:,} pixels take {megabytes(taken)} to decode, and a file of its size may take "
        f"{megabytes(allowed(_bytes_of(file)))}{_advice(width * height)}"
    )


def _opened(file: BinaryIO, budget: PixelBudget) -> ImageFile.ImageFile:
    """The image, of which only the header has been read, within the budget's `max_pixels`."""
    head = _head(file)
    if head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:] == b"WEBP"):
        size = _bytes_of(file)
        if size > _MOST_BYTES:
            raise DecodeError(f"it has {size:,} bytes; an image of its format may have {_MOST_BYTES:,}")
        if size > _MANY_BYTES:
            budget.take_all()
    if head[:4] == _ICO_SIGNATURE:  # decoded when it is opened, whatever its size
        for width, height in images_in_icon(file):
            _check_memory("ICO", (width, height), _ICO_BYTES * width * height, file, budget)
        budget.take_all()
    _handle_pillows_log()
    formats = (*FORMATS, "HEIF") if _is_heif(head) and _heif_is_registered() else FORMATS
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        if _is_heif(head) and not has_heif():
            raise DecodeError(f"it is a HEIC image, which needs pillow-heif: {HEIF_INSTALL}") from error
        file.seek(0)
        if not file.read(1):
            raise DecodeError("the file is empty") from error
        raise
    except Image.DecompressionBombError as error:
        told = re.search(r"\((\d+) pixels\)", str(error))
        raise TooManyPixelsError(_too_many_pixels("", int(told[1]) if told else 0, budget)) from error
    if image.format == "QOI" and isinstance(file, _Counted):
        file.most = _MOST_OF_QOI
        file.refusal = (
            f"it is a QOI image of {image.width:,} x {image.height:,} pixels, which Pillow reads one by one and would "
            "take too long for; convert it to PNG"
        )
    if image.width * image.height > budget.most_pixels:
        image.close()
        found = f", {image.width:,} x {image.height:,}"
        raise TooManyPixelsError(_too_many_pixels(found, image.width * image.height, budget))
    return image


def _too_many_pixels(size: str, pixels: int, budget: PixelBudget) -> str:
    if budget.max_pixels:
        return f"it has too many pixels{size}: max_pixels is {budget.max_pixels:,}"
    return f"it has too many pixels{size}: more than {budget.most_pixels:,}{_advice(pixels)}"


def _advice(pixels: int) -> str:
    """What to set to read an image of so many pixels (0: unknown), and still every image that opens by default."""
    if pixels > PIXELS.high:
        return ""
    number = f"{max(pixels, MOST_PIXELS)} or more" if pixels else "their number"
    return f"; to read it, set max_pixels to {number}"


def _bytes_of(file: BinaryIO) -> int:
    """The size of a file, which stays where it stands: Pillow continues there. 0 where it can't be told."""
    if not file.seekable():
        return 0
    before = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(before)
    return size


def _content_of(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _head(file: BinaryIO) -> bytes:
    if not file.seekable():
        return b""
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    return head


def _despite_texts(file: BinaryIO, read: Callable[[BinaryIO], Result]) -> Result:
    """What `read` makes of the file. Of a PNG whose texts or colour profile are too long for Pillow they are left out:
    the pixels do not depend on them."""
    try:
        return read(file)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # Pillow's error for its limits
            raise
    return read(_without_texts(file))


def _without_texts(file: BinaryIO) -> BinaryIO:
    """A copy of a PNG without the chunks that hold texts and colour profiles."""
    file.seek(0)
    kept = io.BytesIO()
    kept.write(file.read(len(_PNG_SIGNATURE)))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _PNG_TEXTS:
            file.seek(length + 4, io.SEEK_CUR)
        else:
            kept.write(head)
            kept.write(file.read(length + 4))
    kept.seek(0)
    return kept


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


@cache
def _heif_is_registered() -> bool:
    """Bring the reader in, with the first image that needs it."""
    if has_heif():
        importlib.import_module("pillow_heif").register_heif_opener()
    return has_heif()


@cache
def _handle_pillows_log() -> None:
    """What Pillow logs of a broken file goes where the program's own logging sends it, and else nowhere: without any
    handler Python would write it to standard error."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from writing to standard error by itself, raw and once for every broken strip.

    Pillow has no switch for that. On Linux the library that it has loaded is asked; elsewhere the lines stay.
    """
    with suppress(OSError, AttributeError):
        for path in loaded_libraries("libtiff"):
            silence = ctypes.CDLL(path).TIFFSetErrorHandler
            silence.argtypes, silence.restype = [ctypes.c_void_p], ctypes.c_void_p
            silence(None)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """How an image is turned upright."""
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata with good pixels: the image is still usable
        return None


def _upright(image: Image.Image, turned: Image.Transpose | None) -> Image.Image:
    return image if turned is None else image.transpose(turned)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _with_straight_alpha(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


class _Levels(NamedTuple):
    """The values of an image that stand for black and white, and whether they are to be exchanged."""

    low: float
    high: float
    inverted: bool


def _levels_of(image: Image.Image) -> _Levels:
    inverted = _tiff_tag(image, _TIFF_PHOTOMETRIC, 1) == 0  # Pillow inverts such images of 8 bits only
    if image.mode.startswith("I;"):
        bits = _tiff_tag(image, _TIFF_BITS_PER_SAMPLE, 16)  # 12-bit samples arrive in the low bits of 16
        return _Levels(0.0, float(2**bits - 1), inverted)
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return _Levels(0.0, 65535.0, inverted)
    ranges = [(values.min(), values.max()) for values in (_finite(rows) for _, rows in _in_rows(image))]
    low, high = float(min(low for low, _ in ranges)), float(max(high for _, high in ranges))
    known = (1.0, 255.0) if image.mode == "F" else (255.0, 65535.0)
    for white in known:
        if low >= 0.0 and high <= white:
            return _Levels(0.0, white, inverted)
    return _Levels(low, max(high, low + 1.0), inverted)


def _finite(image: Image.Image) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image).astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _eight_bits(image: Image.Image, levels: _Levels) -> Image.Image:
    low, high, inverted = levels
    scaled = np.clip(np.rint((_finite(image) - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)
    result = Image.fromarray(255 - scaled if inverted else scaled)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(np.asarray(image) == transparent, np.uint8(0), np.uint8(255))
        result.putalpha(Image.fromarray(alpha))
    return result


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _reason(error: Exception) -> str:
    if isinstance(error, DecodeError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if isinstance(error, Image.DecompressionBombError):  # an image within the file is larger than its header says
        return "it has too many pixels to be decoded safely"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or its format is not supported"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read ({error.strerror})"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "the file is truncated"
    detail = " ".join(str(error).split())[:120] or type(error).__name__
    return f"its content is damaged ({detail})"


class _Quiet:
    lock = threading.Lock()
    inside = 0
    filters: "warnings.catch_warnings[None] | None" = None
    pixels: int | None = None


@contextmanager
def _without_pillow_warnings(max_pixels: int = 0) -> Iterator[None]:
    """Silence the warnings of Pillow's own modules (odd metadata, large images) while it decodes, and raise its limit
    of pixels where `max_pixels` is above it.

    The first thread that comes in sets the filter and the last one out restores it, so that threads may decode at once.
    """
    with _Quiet.lock:
        if _Quiet.inside == 0:
            _Quiet.filters = warnings.catch_warnings()
            _Quiet.filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _Quiet.pixels = Image.MAX_IMAGE_PIXELS
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > MAX_PIXELS:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, -(-max_pixels // 2))  # Pillow refuses twice that
        _Quiet.inside += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.inside -= 1
            if _Quiet.inside == 0 and _Quiet.filters is not None:
                _Quiet.filters.__exit__(None, None, None)
                _Quiet.filters = None
                Image.MAX_IMAGE_PIXELS = _Quiet.pixels
