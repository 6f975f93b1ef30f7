import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2t_vit.data import decode as decoding
from t2t_vit.data import image_memory, png
from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.decode import DecodeError, decode, image_size

MODES = ("L", "RGB", "RGBA")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a colour type
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
KINDS += [(4, 8), (4, 16), (6, 8), (6, 16)]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def stored_rows(kind: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> bytes:
    """Rows of random bytes, each with one of the five filters."""
    (colour, bits), (width, height) = kind, size
    length = (width * CHANNELS[colour] * bits + 7) // 8
    return b"".join(bytes([row % 5]) + rng.bytes(length) for row in range(height))


def png_of(
    kind: tuple[int, int],
    size: tuple[int, int],
    rows: bytes,
    *,
    transparency: bytes | None = None,
    palette: bytes | None = None,
    orientation: int = 1,
    interlaced: bool = False,
) -> bytes:
    """A PNG whose pixels lie in several chunks, with the EXIF behind them."""
    colour, bits = kind
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = zlib.compress(rows)
    colours = bytes(7 * value % 256 for value in range(3 * 2**bits))
    pieces = [stream[:7], b"", stream[7:100], stream[100:]]
    return b"".join((
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced)),
        chunk(b"PLTE", colours if palette is None else palette) if colour == 3 else b"",
        b"" if transparency is None else chunk(b"tRNS", transparency),
        *(chunk(b"IDAT", piece) for piece in pieces),
        chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),
        chunk(b"IEND", b""),
    ))  # fmt: skip


@pytest.fixture
def by_bands(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Decode by bands of few rows, as an image that is too large for Pillow's way."""

    def read(content: bytes, mode: str, factor: int) -> Any:
        used = []

        def counted(*arguments: Any) -> None:
            used.append(True)
            png.decode_by_bands(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(png, "BAND", 90)
            patched.setattr(decoding, "bytes_by_bands", lambda *_: 0)
            patched.setattr(decoding, "allowed", lambda _: 0)
            patched.setattr(decoding, "decode_by_bands", counted)
            image = outcome(content, mode, factor)
        assert used
        return image

    return read


def outcome(content: bytes, mode: Any, factor: int) -> Any:
    """Pixels, or the reason why there are none."""
    try:
        image = decode(content, mode, lambda _: factor)
    except DecodeError as error:
        return str(error)
    return image.mode, image.size, image.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_bands_have_the_pixels_that_pillow_gives(kind: tuple[int, int], by_bands: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    colour, bits = kind
    several = bytes([0, 128, 255][: 2**bits])
    transparencies = {0: [b"\0\1"], 2: [b"\0\3\0\4\0\5"], 3: [b"\xff\0", several]}.get(colour, [])
    for number, transparency in enumerate([None, *transparencies]):
        for size in ((1, 1), (37, 23), (40, 30)):
            rows = stored_rows(kind, size, rng)
            if colour == 2:  # the transparent colour is there
                rows = rows.replace(rows[1:7], b"\0\3\0\4\0\5" if bits == 16 else b"\3\4\5\3\4\5", 1)
            content = png_of(kind, size, rows, transparency=transparency, orientation=3 * number + 1)
            for mode in MODES:
                for factor in (1, 2, 4):
                    whole = outcome(content, mode, factor)
                    assert isinstance(whole, tuple)
                    assert by_bands(content, mode, factor) == whole, (transparency, size, mode, factor)


def test_what_is_damaged_ends_by_bands_as_it_does_whole(by_bands: Callable[..., Any]) -> None:
    kind, size, rng = (6, 8), (40, 30), np.random.default_rng(0)
    rows = stored_rows(kind, size, rng)
    row = len(rows) // 30
    content = png_of(kind, size, rows)
    stream = content.rindex(b"eXIf") - 8  # the checksum of the last IDAT begins 4 bytes later
    cases = {
        "whole": content,
        "ends with a row": png_of(kind, size, rows[: 7 * row]),
        "ends within a row": png_of(kind, size, rows[: 7 * row + 3]),
        "no rows": png_of(kind, size, b""),
        "too many rows": png_of(kind, size, rows + rows),
        "no such filter": png_of(kind, size, rows[: 9 * row] + b"\5" + rows[9 * row + 1 :]),
        "damaged": content[:200] + bytes(50) + content[250:],
        "the stream's checksum": content[: stream - 2] + b"\0\0" + content[stream:],
        "the chunk's checksum": content[:stream] + b"\0\0" + content[stream + 2 :],
        "no rest": content[:stream],
        "cut off": content[:2000],
        "a palette of no size": png_of((3, 1), size, stored_rows((3, 1), size, rng), palette=b"\0\0"),
    }
    outcomes = {name: outcome(case, "RGB", 2) for name, case in cases.items()}
    assert {name: by_bands(case, "RGB", 2) for name, case in cases.items()} == outcomes
    assert outcomes["ends with a row"][1] == outcomes["whole"][1] == outcomes["too many rows"][1] == (20, 15)
    assert outcomes["ends within a row"] == outcomes["cut off"] == "the file is truncated"
    assert "damaged" in outcomes["no such filter"] and "damaged" in outcomes["damaged"]


def test_only_what_pillow_may_not_decode_whole_comes_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    size, rng = (250, 250), np.random.default_rng(0)
    large = png_of((6, 8), size, b"".join(bytes(1 + 4 * 250) for _ in range(250)))
    taken: list[int] = []
    monkeypatch.setattr(PixelBudget, "take", lambda _, pixels: taken.append(4 * pixels))
    monkeypatch.setattr(png, "BAND", 1000)
    whole = decode(large, "RGB", lambda _: 2)
    monkeypatch.setattr(image_memory, "LEAST", 150_000)
    assert image_size(BytesIO(large)) == size
    assert decode(large, "RGB", lambda _: 2).tobytes() == whole.tobytes()
    assert taken[0] > 250_000 > 150_000 > taken[1]
    interlaced = png_of((6, 8), size, stored_rows((6, 8), size, rng), interlaced=True)[:2000]
    for refuses in (lambda: decode(interlaced, "RGB", lambda _: 2), lambda: image_size(BytesIO(interlaced))):
        with pytest.raises(DecodeError, match="set max_pixels to 268435456 or more"):
            refuses()
