"""Large still WebP images, by libwebp itself: Pillow reads every WebP as an animation, which takes 16 bytes a pixel.

The library is the one that Pillow has loaded. Where it can't be found (elsewhere than on Linux), Pillow decodes.
"""

import ctypes
import re
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from t2t_vit.platforms import loaded_libraries

_RIFF_BYTES = 12
_LOSSLESS, _LOSSY = 4.0, 0.5  # bytes a pixel that libwebp keeps beside the pixels


def bytes_beside(content: bytes) -> float | None:
    """Bytes a pixel that `decode_still` keeps beside the image; None where it can't decode this one."""
    if _library() is None:
        return None
    at = _RIFF_BYTES
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        if kind in (b"VP8L", b"VP8 "):
            return _LOSSLESS if kind == b"VP8L" else _LOSSY
        if kind == b"ANIM":
            return None
        at += 8 + length + length % 2
    return None


def decode_still(content: bytes, size: tuple[int, int], mode: str) -> Image.Image:
    """The pixels that Pillow gives of a still image: `size` and `mode` (`RGB` or `RGBA`) are those of its header.

    Raises:
        ValueError: it is damaged or truncated.
    """
    width, height = size
    pixels = bytearray(4 * width * height)
    library = _library()
    assert library is not None, "ask bytes_beside first"
    target = (ctypes.c_char * len(pixels)).from_buffer(pixels)
    if not library.WebPDecodeRGBAInto(content, len(content), target, len(pixels), 4 * width):
        raise ValueError("the file is truncated")
    layout = "RGBA" if mode == "RGBA" else "RGBX"
    return Image.frombuffer(layout, size, pixels, "raw", layout, 0, 1)  # over the same memory


@cache
def _library() -> Any:
    with suppress(OSError, AttributeError):
        for path in loaded_libraries("libwebp"):
            if re.match(r"libwebp[-.]", Path(path).name):
                library = ctypes.CDLL(path)
                decode = library.WebPDecodeRGBAInto
                decode.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
                decode.restype = ctypes.c_void_p
                return library
    return None
