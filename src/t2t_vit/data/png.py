"""Large PNG images by bands of rows, with the pixels that Pillow gives: it would keep the whole image in memory.

The rows of a PNG are one zlib stream, in which a row is stored as differences from the row above. So a band is
unpacked, the last row of the band above is put before it, and Pillow decodes both as a small image of its own.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image, ImageFile, ImagePalette

Convert = Callable[[Image.Image], Image.Image]

BAND = 2**17  # pixels that are unpacked and converted at once
_BAND_BYTES = 64  # that each of them takes meanwhile
_ROW = 8  # bytes of a pointer to each row
_CODEC = "t2t_vit_png"
_DONE, _BROKEN, _UNKNOWN_FILTER = 0, -2, -3  # Pillow's numbers for how a decoder ended


class _UnknownFilterError(Exception):
    pass


class _Layout(NamedTuple):
    """How rows are stored: the bits of a pixel, and the mode whose pixels are as many bytes as a filter looks back."""

    bits: int
    mode: str


# By Pillow's names of layouts. With 16 bits a filter works on the higher and the lower bytes separately, and Pillow
# keeps the higher ones alone, but of grey images.
_LAYOUTS = {
    "1": _Layout(1, "L"), "L;2": _Layout(2, "L"), "L;4": _Layout(4, "L"), "L": _Layout(8, "L"),
    "P;1": _Layout(1, "L"), "P;2": _Layout(2, "L"), "P;4": _Layout(4, "L"), "P": _Layout(8, "P"),
    "I;16B": _Layout(16, "LA"), "LA": _Layout(16, "LA"), "RGB": _Layout(24, "RGB"), "RGBA": _Layout(32, "RGBA"),
    "LA;16B": _Layout(32, "LA"), "RGB;16B": _Layout(48, "RGB"), "RGBA;16B": _Layout(64, "RGBA"),
}  # fmt: skip
_HIGHER_BYTES = frozenset({"LA;16B", "RGB;16B", "RGBA;16B"})
_PACKED = frozenset({"1", "L;2", "L;4", "P;1", "P;2", "P;4", "I;16B"})  # a pixel is not one of the layout's mode


def has_bands(image: ImageFile.ImageFile) -> bool:
    """Whether an image that has just been opened can be decoded by bands: a PNG, neither interlaced nor a part."""
    if image.format != "PNG" or image.info.get("interlace") or len(image.tile) != 1:
        return False
    codec, extents, _, layout = image.tile[0]
    return codec == "zip" and extents == (0, 0, *image.size) and layout in _LAYOUTS


def bytes_by_bands(size: tuple[int, int], mode: str, factor: int) -> int:
    """The memory that it takes to decode an image of `size` (width, height) by bands, and the smaller result."""
    width, height = (math.ceil(side / factor) for side in size)
    return width * height * (1 if mode == "L" else 4) + _ROW * height + _BAND_BYTES * size[0] * _rows(size, factor)


def decode_by_bands(image: ImageFile.ImageFile, mode: str, factor: int, convert: Convert) -> None:
    """Prepare an opened image with `has_bands`, as JPEG's draft does: once loaded it has `mode`, and is smaller.

    Args:
        factor: by which it becomes smaller; the bands begin at rows that it divides.
        convert: makes some rows, as Pillow would decode them, those of the result.
    """
    Image.register_decoder(_CODEC, _Bands)
    (_, _, offset, layout), whole = image.tile[0], image.size
    size = (math.ceil(whole[0] / factor), math.ceil(whole[1] / factor))
    source = _Source(image.mode, str(layout), whole, image.palette, image.info.pop("transparency", None))
    image.tile = [ImageFile._Tile(_CODEC, (0, 0, *size), offset, (source, factor, convert))]
    image.palette = None
    image._mode, image._size = mode, size


def _rows(size: tuple[int, int], factor: int) -> int:
    """Rows of a band."""
    return min(size[1], max(1, BAND // size[0] // factor) * factor)


class _Source(NamedTuple):
    """What the header says of an image."""

    mode: str
    layout: str
    size: tuple[int, int]
    palette: ImagePalette.ImagePalette | None
    transparency: int | bytes | tuple[int, int, int] | None

    @property
    def row_bytes(self) -> int:
        return 1 + (self.size[0] * _LAYOUTS[self.layout].bits + 7) // 8  # the first tells the filter

    def unfiltered(self, stored: bytearray, above: bytes) -> Image.Image:
        """A band as it lies in the stream, and the row above (nothing: zeros) -> that row and the band.

        Raises:
            _UnknownFilterError: of a row.
        """
        mode = _LAYOUTS[self.layout].mode
        rows = np.frombuffer(stored, np.uint8).reshape(-1, self.row_bytes)  # (rows, 1 + bytes)
        if self.layout in _HIGHER_BYTES:
            rows = np.concatenate([rows[:, :1], rows[:, 1::2]], axis=1)
        length = rows.shape[1] - 1
        content = zlib.compress(b"".join((b"\0", above or bytes(length), rows.data)), 0)  # filter 0: the row as it is
        size = (length // Image.getmodebands(mode), len(rows) + 1)
        try:
            return Image.frombytes(mode, size, content, "zip", mode)
        except ValueError as error:
            raise _UnknownFilterError from error

    def pixels(self, band: Image.Image) -> Image.Image:
        """The band of `unfiltered`, without the row above, as Pillow decodes it."""
        band = band.crop((0, 1, band.width, band.height))
        if self.layout in _PACKED:
            band = Image.frombytes(self.mode, (self.size[0], band.height), band.tobytes(), "raw", self.layout)
        if self.palette is not None and self.mode == "P":
            band.putpalette(self.palette)
        if self.transparency is not None:
            band.info["transparency"] = self.transparency
        return band


class _Bands(ImageFile.PyDecoder):
    """Pillow's `load` hands over the content of the chunks, piece by piece, and the image that is to be filled."""

    def init(self, args: tuple[object, ...]) -> None:
        self._source, self._factor, self._convert = cast(tuple[_Source, int, Convert], args)
        self._stream = zlib.decompressobj()
        self._has_ended = False
        self._stored = bytearray()
        self._above = b""
        self._top = 0  # row of the band

    def decode(self, buffer: Any) -> tuple[int, int]:
        rest, used = cast(bytes, buffer), len(buffer)
        while rest and not self._has_ended:
            missing = self._rows() * self._source.row_bytes - len(self._stored)
            try:
                unpacked = self._stream.decompress(rest, missing)
            except zlib.error:
                return -1, _BROKEN
            rest, self._has_ended = self._stream.unconsumed_tail, self._stream.eof
            self._stored += unpacked
            # Where the stream ends with a row, too early, Pillow leaves the other rows black.
            is_early = self._has_ended and bool(unpacked) and len(self._stored) % self._source.row_bytes == 0
            try:
                if len(unpacked) == missing or is_early:
                    self._fill()
                while is_early and self._rows():
                    self._fill()
            except _UnknownFilterError:
                return -1, _UNKNOWN_FILTER
            if not self._rows():
                return -1, _DONE
        return used, _DONE

    def _rows(self) -> int:
        """Rows of the band; 0 behind the last one."""
        size = self._source.size
        return min(_rows(size, self._factor), size[1] - self._top)

    def _fill(self) -> None:
        """Enter a band into the image, with zeros for what is missing of it."""
        self._stored.extend(bytes(self._rows() * self._source.row_bytes - len(self._stored)))
        band = self._source.unfiltered(self._stored, self._above)
        self._stored = bytearray()
        self._above = band.crop((0, band.height - 1, band.width, band.height)).tobytes()
        converted = self._convert(self._source.pixels(band))
        assert self.im is not None
        top = self._top // self._factor
        self.im.paste(converted.im, (0, top, converted.width, top + converted.height))
        self._top += band.height - 1
