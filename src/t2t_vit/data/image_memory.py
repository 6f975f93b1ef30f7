"""How much memory it takes to decode an image: told from its header, before a codec begins.

Measured by `python benchmarks/image_memory.py`. Pillow keeps an image whole in 1, 2 or 4 bytes a pixel; its codecs keep
more beside it, some of them several times as much.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import ImageFile

LEAST = 2**28  # bytes that any file may take
_TIMES_FILE = 2  # a larger file may take more: a camera's file has about a byte per pixel, a bomb a thousandth
# Formats of phones, whose codecs can only decode whole: their largest usual image is read whatever it takes.
PHONES = frozenset({"AVIF", "HEIF"})
MOST_OF_PHONES = 50_331_648  # pixels: 8192 x 6144
AT_ONCE = 2**20  # pixels that are converted at once
_CONVERTING, _CONVERTING_HARD = 8, 32  # bytes that each of them takes meanwhile; with alpha or numbers of 16 bits
_ROW = 8  # bytes of a pointer to each row
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # others: 4
# Bytes a pixel that a codec keeps beside the image; of JPEG 2000, QOI and PPM, of each channel.
_WEBP, _AVIF, _HEIF, _JPEG2000, _QOI, _RLE, _PPM = 12, 6, 4, 5, 1, 2, 8
_TIFF_ROWS, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT, _TIFF_BITS = 278, 322, 323, 258
_MOST_HEAD = 2**20  # bytes before the header of a JPEG 2000 codestream, and of it
_SIZE, _CODING, _TILE = 0xFF51, 0xFF52, 0xFF90  # its markers
_LEVELS_AT = 9  # of a coding marker
_OFFSETS_AT = 14  # of the marker of the size
_PNG_HEADER, _BITMAP_HEADER = struct.Struct(">8s4s4sII"), struct.Struct("<Iii")
_COEFFICIENT = 2  # bytes


def allowed(file_bytes: int) -> int:
    """The memory that an image in a file of this size may take, in bytes."""
    return LEAST + _TIMES_FILE * file_bytes


def bytes_to_decode(
    image: ImageFile.ImageFile,
    decoded: tuple[int, int],
    mode: str,
    factor: int,
    *,
    coefficients: float = 0,
    beside: float | None = None,
) -> int:
    """The memory that it takes to decode an opened image, to convert it to `mode` and to make it smaller by `factor`.

    Args:
        decoded: (width, height) that the codec gives; some can leave out pixels.
        coefficients: of `jpeg_coefficients`.
        beside: bytes a pixel that are kept beside the image, where it is not Pillow that decodes it.
    """
    width, height = decoded
    pixels = width * height
    held = pixels * _PIXEL_BYTES.get(image.mode, 4) + _ROW * height
    codec = coefficients + _beside(image, pixels) if beside is None else beside * pixels
    is_ready = image.mode == mode and "transparency" not in image.info and beside is None
    if factor == 1 and is_ready:
        return int(held + codec)
    converted = pixels / factor**2 * (1 if mode == "L" else 4) + _ROW * height / factor
    # Pillow fails to look for transparency where a palette is missing; it shows such an image all black.
    has_palette = image.mode != "P" or image.palette is not None
    is_hard = (image.has_transparency_data if has_palette else "transparency" in image.info) or image.mode[0] in "IF"
    rows = 0 if is_ready else (_CONVERTING_HARD if is_hard else _CONVERTING) * min(pixels, AT_ONCE)
    return int(held + max(codec, converted + rows))


def _beside(image: ImageFile.ImageFile, pixels: int) -> float:
    channels = len(image.getbands())
    match image.format:
        case "WEBP":
            return _WEBP * pixels
        case "AVIF":
            return _AVIF * pixels
        case "HEIF":
            return _HEIF * pixels
        case "JPEG2000":
            return _JPEG2000 * channels * pixels
        case "QOI":
            return _QOI * channels * pixels
        case "BMP" | "DIB":
            return _RLE * pixels if _decoder(image) == "bmp_rle" else 0
        case "PPM":
            return 0 if _decoder(image) == "raw" else _PPM * channels * pixels
        case "TIFF":
            return _strip(image)
    return 0


def _decoder(image: ImageFile.ImageFile) -> str:
    return image.tile[0][0] if image.tile else ""


def jpeg_coefficients(image: ImageFile.ImageFile) -> float:
    """Bytes of a JPEG that comes in several scans, just opened: it is held as a whole, whatever size is asked for."""
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    if not image.info.get("progressive") and not _begins_with_a_part(image, len(layers)):
        return 0
    largest = max((across * down for _, across, down, _ in layers), default=1)
    return _COEFFICIENT * image.width * image.height * sum(across * down for _, across, down, _ in layers) / largest


def jpeg2000_levels(file: BinaryIO) -> int:
    """How many times the codec can halve a JPEG 2000 image while it decodes it, by its main header.

    An image that does not begin at the origin of its grid counts as one that can't: Pillow expects another size.
    """
    file.seek(0)
    head = file.read(_MOST_HEAD)
    at = head.find(struct.pack(">HH", 0xFF4F, _SIZE)) + 2
    while 2 <= at <= len(head) - _LEVELS_AT - 1:
        kind, length = struct.unpack_from(">HH", head, at)
        if kind == _CODING:
            return head[at + _LEVELS_AT]
        origin = head[at + _OFFSETS_AT : at + _OFFSETS_AT + 8]
        if kind == _TILE or (kind == _SIZE and any(origin)):
            break
        at += 2 + length
    return 0


def _begins_with_a_part(image: ImageFile.ImageFile, channels: int) -> bool:
    """Whether the first scan, at whose header Pillow stops to read, lacks channels."""
    head = image.fp.read(3) if image.fp and image.format == "JPEG" else b""
    return len(head) == 3 and head[2] < channels


def _strip(image: ImageFile.ImageFile) -> int:
    """Bytes of a strip or tile of a TIFF, which libtiff unpacks whole."""
    if _decoder(image) != "libtiff":
        return 0
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, 8)
    pixel = max(4, sum(bits) / 8) if isinstance(bits, tuple) else max(1, bits / 8)
    if _TIFF_TILE_WIDTH in tags:
        return int(tags[_TIFF_TILE_WIDTH] * tags.get(_TIFF_TILE_HEIGHT, 1) * pixel)
    return int(image.width * min(image.height, tags.get(_TIFF_ROWS, image.height)) * pixel)


def images_in_icon(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(width, height) of the images in an ICO file, which Pillow decodes when it opens it."""
    file.seek(0)
    (count,) = struct.unpack("<4xH", file.read(6).ljust(6, b"\0"))
    for entry in range(count):
        file.seek(6 + 16 * entry)
        offset = int.from_bytes(file.read(16)[12:], "little")
        file.seek(offset)
        head = file.read(_PNG_HEADER.size).ljust(_PNG_HEADER.size, b"\0")
        if head.startswith(b"\x89PNG"):
            *_, width, height = _PNG_HEADER.unpack(head)
        else:
            _, width, height = _BITMAP_HEADER.unpack_from(head)
        yield abs(width), abs(height)
    file.seek(0)


def megabytes(count: float) -> str:
    """For sentences."""
    return f"{count / 1e6:,.0f} MB"
