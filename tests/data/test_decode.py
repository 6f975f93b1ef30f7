import io
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hostile import mutated
from t2t_vit.data import decode as decoding
from t2t_vit.data import image_memory, webp
from t2t_vit.data.budget import MAX_PIXELS, PixelBudget
from t2t_vit.data.decode import EXTENSIONS, DecodeError, convert, decode, image_size, is_image_ending, to_mode

IMAGES = Path(__file__).parents[1] / "fixtures" / "images"
READABLE = sorted(
    path
    for path in IMAGES.iterdir()
    if path.suffix in EXTENSIONS and not path.name.startswith(("broken", "truncated", "decompression"))
)


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(int)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("path", READABLE, ids=lambda path: path.name)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_every_kind_of_file_comes_out_in_every_mode(path: Path, mode: str) -> None:
    assert decode(path, mode).mode == mode


def test_exif_orientations_all_come_out_upright() -> None:
    upright = [grey(decode(IMAGES / f"hopper_orientation_{i}.jpg", "RGB")) for i in range(2, 9)]
    for other in upright[1:]:
        assert np.abs(other - upright[0]).mean() < 6
    raw = grey(Image.open(IMAGES / "hopper_orientation_6.jpg"))
    assert np.abs(raw - upright[0]).mean() > 30


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(ramp / 257).astype(np.uint8)
    for format in ("PNG", "TIFF"):
        levels = np.asarray(decode(saved(Image.fromarray(ramp), format), "L"))
        np.testing.assert_array_equal(levels, expected)
    hopper = grey(decode(IMAGES / "hopper_16bit.pgm", "RGB"))
    assert 60 < hopper.mean() < 140
    assert np.abs(hopper - grey(decode(IMAGES / "hopper_gray.jpg", "RGB"))).mean() < 8


def test_big_endian_and_white_is_zero_tiff() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    tiff = saved(Image.fromarray(ramp), "TIFF")
    black_is_zero = b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00"
    assert black_is_zero in tiff
    inverted = decode(tiff.replace(black_is_zero, black_is_zero[:-2] + b"\x00\x00"), "L")
    np.testing.assert_array_equal(np.asarray(inverted), 255 - np.asarray(decode(tiff, "L")))
    swapped = Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes())
    np.testing.assert_array_equal(np.asarray(to_mode(swapped, "L")), np.asarray(decode(tiff, "L")))


def test_twelve_bit_samples_use_their_own_range() -> None:
    with Image.open(IMAGES / "12bit.cropped.tif") as image:
        values = np.asarray(image)
    levels = np.asarray(decode(IMAGES / "12bit.cropped.tif", "L"))
    np.testing.assert_array_equal(levels, np.rint(values / 4095 * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-1.0, 0.0, 3.0]], np.float32), [0, 64, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-5, -5, -5]], np.int32), [0, 0, 0]),
        (np.array([[np.nan, 0.0, 1.0]], np.float32), [0, 0, 255]),
    ],
)
def test_wide_values_of_unknown_range(values: np.ndarray, expected: list[int]) -> None:
    assert np.asarray(decode(saved(Image.fromarray(values), "TIFF"), "L"))[0].tolist() == expected


def test_alpha_is_shown_on_white_or_kept() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = [255, 0, 0, 255]
    pixels[1, 1] = [0, 0, 0, 128]
    png = saved(Image.fromarray(pixels), "PNG")
    shown = np.asarray(decode(png, "RGB"))
    assert shown[0, 0].tolist() == [255, 0, 0]
    assert shown[1, 0].tolist() == [255, 255, 255]
    assert shown[1, 1].tolist() == [127, 127, 127]
    assert np.asarray(decode(png, "L"))[1, 0] == 255
    np.testing.assert_array_equal(np.asarray(decode(png, "RGBA")), pixels)


@pytest.mark.parametrize("name", ["p_trns_single.png", "rgb_trns.png", "i_trns.png", "uncompressed_la.png"])
def test_declared_transparency_becomes_white(name: str) -> None:
    alpha = np.asarray(decode(IMAGES / name, "RGBA"))[..., 3]
    assert alpha.min() == 0
    shown = np.asarray(decode(IMAGES / name, "RGB"))
    assert (shown[alpha == 0] == 255).all()


def test_palette_with_partial_transparency_warns_nobody() -> None:
    image = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), "L").convert("P")
    png = saved(image, "PNG", transparency=bytes([0, 128, 255, 255]))
    assert np.asarray(decode(png, "L"))[0, 0] == 255


def test_grey_palette_and_bilevel_convert_exactly() -> None:
    pixels = np.array([[0, 255], [255, 0]], np.uint8)
    assert np.asarray(decode(saved(Image.fromarray(pixels).convert("1"), "PNG"), "L")).tolist() == pixels.tolist()
    colours = Image.new("RGB", (1, 1), (10, 200, 30))
    assert decode(saved(colours.quantize(), "GIF"), "RGB").getpixel((0, 0)) == (10, 200, 30)


def test_cmyk_and_lab_are_natural_colours() -> None:
    cmyk = np.asarray(decode(IMAGES / "pil_sample_cmyk.jpg", "RGB"))
    assert (cmyk[0, 0] > 200).sum() <= 1  # an inverted reading would be near white
    red = decode(IMAGES / "lab-red.tif", "RGB").getpixel((5, 5))
    assert red[0] > 200
    assert max(red[1:]) < 130


def test_animation_gives_its_first_frame() -> None:
    with Image.open(IMAGES / "different_transparency.gif") as image:
        first = to_mode(image.copy(), "RGB")
    assert decode(IMAGES / "different_transparency.gif", "RGB").tobytes() == first.tobytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated_jpeg.jpg", "truncated"),
        ("broken.png", "not an image"),
        ("decompression_bomb.gif", "too many pixels"),
        ("LICENSE", "not an image"),
        ("missing.png", "No such file"),
    ],
)
def test_what_cannot_be_decoded_says_why(name: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(IMAGES / name, "RGB")


def test_truncated_at_any_byte_is_an_error_of_ours() -> None:
    whole = (IMAGES / "hopper_orientation_6.jpg").read_bytes()
    for end in (0, 1, 3, 20, 200, 1000, 3000, len(whole) // 2):
        with pytest.raises(DecodeError):
            decode(whole[:end], "RGB")
    with pytest.raises(DecodeError, match="empty"):
        decode(b"", "RGB")


def test_an_error_keeps_nothing_of_what_was_read() -> None:
    """Frames that hang on it would hold the file and the pixels as long as somebody keeps the error."""
    broken = (IMAGES / "truncated_jpeg.jpg").read_bytes()
    image = Image.open(io.BytesIO(broken))
    for fails in (lambda: decode(broken, "RGB"), lambda: image_size(IMAGES / "LICENSE"), lambda: convert(image, "RGB")):
        with pytest.raises(DecodeError) as caught:
            fails()
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert not any("PIL" in str(entry.path) for entry in caught.traceback)


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.*")), ids=lambda path: path.name)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_rows_that_are_converted_one_after_the_other_make_the_same_image(
    path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        whole = decode(path, mode)  # type: ignore[arg-type]
    except DecodeError:
        return
    monkeypatch.setattr(decoding, "AT_ONCE", 700)
    assert decode(path, mode).tobytes() == whole.tobytes()  # type: ignore[arg-type]


def test_the_range_of_an_image_is_that_of_all_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for values in (np.linspace(-3, 9, 40, dtype=np.float32), np.arange(-7, 33, dtype=np.int32)):
        image = Image.fromarray(values.reshape(10, 4))
        whole = to_mode(image, "L").tobytes()
        with monkeypatch.context() as patched:
            patched.setattr(decoding, "AT_ONCE", 8)
            assert to_mode(image, "L").tobytes() == whole


def with_chunk(png: bytes, kind: bytes, content: bytes, *, last: bool = False) -> bytes:
    at = len(png) - 12 if last else 33  # before IEND, or after IHDR
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:at] + chunk + png[at:]


def test_long_texts_and_profiles_of_a_png_cost_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    png = saved(pixels, "PNG", exif=exif.tobytes())
    expected = decode(png, "RGB")
    assert expected.size == (40, 30)  # turned by its EXIF
    long = bytes(3 * PngImagePlugin.MAX_TEXT_CHUNK)
    packed = zlib.compress(long)
    texts = (
        (b"iCCP", b"profile\0\0" + packed),
        (b"zTXt", b"Comment\0\0" + packed),
        (b"iTXt", b"Comment\0\1\0\0\0" + packed),
        (b"tEXt", b"Comment\0" + long),
    )
    for kind, content in texts:
        for last in (False, True):
            image = with_chunk(png, kind, content, last=last)
            assert decode(image, "RGB").tobytes() == expected.tobytes(), (kind, last)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1000)
    many = png
    for number in range(9):
        many = with_chunk(many, b"tEXt", b"%d\0" % number + long[:200])
    assert decode(many, "RGB").tobytes() == expected.tobytes()
    assert image_size(io.BytesIO(many)) == (30, 40)


def test_profiles_and_metadata_of_other_formats_cost_no_pixel() -> None:
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    profile = np.random.default_rng(1).bytes(3_000_000)
    for kind in ("JPEG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        plain = decode(saved(pixels, kind, **options), "RGB")
        assert decode(saved(pixels, kind, icc_profile=profile, **options), "RGB").tobytes() == plain.tobytes(), kind


def test_an_image_of_more_than_max_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:60])  # of the pixels nothing is there
    budget = PixelBudget(1199)
    for refuses in (decode, image_size):
        arguments = ("RGB",) if refuses is decode else ()
        with pytest.raises(DecodeError, match="too many pixels, 40 x 30: max_pixels is 1,199"):
            refuses(tmp_path / "a.png", *arguments, budget=budget)  # type: ignore[operator]
    assert decode(whole, "RGB", budget=PixelBudget(1200)).size == (40, 30)


def test_max_pixels_may_be_above_pillows_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = IMAGES / "hopper_gray.jpg"
    with pytest.raises(DecodeError, match="too many pixels: max_pixels is 178,956,970"):
        decode(path, "L", budget=PixelBudget(MAX_PIXELS))
    assert decode(path, "L", budget=PixelBudget(2 * MAX_PIXELS)).size == (128, 128)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_number_to_set_is_named_whoever_refuses() -> None:
    content = bytearray(saved(Image.new("L", (1, 1)), "PNG"))
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(DecodeError, match=r"more than 268,435,456; to read it, set max_pixels to 900000000 or more$"):
        decode(bytes(content), "L")
    content[16:24] = struct.pack(">II", 2**30, 2**30)  # max_pixels can't be that large
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(DecodeError, match=r"it has too many pixels: more than 268,435,456$"):
        decode(bytes(content), "L")


SMALL_BOMBS: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": ("RGB", {}),
    "TIFF": ("RGB", {"compression": "tiff_deflate"}),
    "WEBP": ("RGB", {"lossless": True}),
    "JPEG": ("RGB", {"progressive": True}),
    "JPEG2000": ("RGB", {"num_resolutions": 1}),
    "QOI": ("RGB", {}),
    "TGA": ("RGB", {"compression": "tga_rle"}),
    "ICO": ("RGBA", {"sizes": [(250, 250)]}),
}


@pytest.mark.parametrize("kind", SMALL_BOMBS)
def test_a_small_file_may_not_take_much_memory_unless_max_pixels_is_set(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode, options = SMALL_BOMBS[kind]
    content = saved(Image.new(mode, (250, 250)), kind, **options)
    assert decode(content, "L").size == (250, 250)
    monkeypatch.setattr(image_memory, "LEAST", 100_000)
    refusal = r"its 250 x 250 pixels take \d+ MB to decode, .* set max_pixels to 268435456 or more"
    for refuses in (
        lambda: decode(content, "L"),
        *([] if kind in ("JPEG", "JPEG2000") else [lambda: image_size(io.BytesIO(content))]),
    ):
        with pytest.raises(DecodeError, match=refusal):
            refuses()
    assert decode(content, "L", budget=PixelBudget(268_435_456)).size == (250, 250)  # as the sentence advises: all that
    assert PixelBudget(268_435_456).most_pixels == PixelBudget().most_pixels  # opens by default still does
    assert decode(content, "L", budget=PixelBudget(62_500)).size == (250, 250)


def test_a_large_file_may_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_memory, "LEAST", 0)
    rough = Image.effect_noise((300, 300), 90)
    assert decode(saved(Image.merge("RGB", [rough] * 3), "PPM"), "RGB").size == (300, 300)
    with pytest.raises(DecodeError, match="set max_pixels"):
        decode(saved(Image.new("RGB", (300, 300)), "PNG"), "RGB")


def test_an_unpacked_strip_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_memory, "LEAST", 300_000)
    image = Image.new("RGB", (250, 250))
    assert decode(saved(image, "TIFF", compression="tiff_deflate", tiffinfo={278: 8}), "RGB").size == (250, 250)
    with pytest.raises(DecodeError, match="set max_pixels"):
        decode(saved(image, "TIFF", compression="tiff_deflate", tiffinfo={278: 250}), "RGB")


def test_photos_of_phones_are_read_whatever_their_codec_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(Image.new("RGB", (250, 250)), "AVIF")
    monkeypatch.setattr(image_memory, "LEAST", 0)
    assert decode(content, "RGB").size == (250, 250)
    monkeypatch.setattr(decoding, "MOST_OF_PHONES", 62_499)
    with pytest.raises(DecodeError, match="set max_pixels to 268435456 or more"):
        decode(content, "RGB")


@pytest.mark.skipif(sys.platform != "linux", reason="libwebp is asked on Linux alone")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}, {"quality": 80, "exif": b"Exif\0\0"}])
def test_a_large_webp_has_the_pixels_that_pillow_gives_it(
    mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = saved(Image.effect_noise((101, 67), 60).convert(mode), "WEBP", **options)
    assert webp.bytes_beside(content) is not None
    expected = decode(content, mode)
    monkeypatch.setattr(image_memory, "LEAST", 60_000)  # less than Pillow takes
    monkeypatch.setattr(image_memory, "AT_ONCE", 100)
    monkeypatch.setattr(Image, "frombuffer", Mock(side_effect=Image.frombuffer))
    assert decode(content, mode).tobytes() == expected.tobytes()
    assert Image.frombuffer.called  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="the file is truncated"):
        webp.decode_still(content[:-90], (101, 67), mode)


@pytest.mark.parametrize("tile", [{}, {"tile_size": (64, 50)}])
def test_the_codec_of_jpeg_2000_leaves_out_what_is_not_needed(
    tile: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = Image.effect_noise((9, 7), 80).resize((203, 131), Image.Resampling.BICUBIC).convert("RGB")
    content, taken = saved(smooth, "JPEG2000", **tile), []
    monkeypatch.setattr(PixelBudget, "take", lambda _, pixels: taken.append(pixels))
    whole = decode(content, "RGB")
    half = decode(content, "RGB", lambda _: 2)
    assert half.size == (102, 66)
    assert taken[1] < taken[0] / 3
    assert np.abs(np.asarray(half.resize((50, 30))).astype(int) - np.asarray(whole.resize((50, 30)))).max() <= 12
    assert decode(saved(smooth, "JPEG2000", num_resolutions=1), "RGB", lambda _: 2).size == (102, 66)
    monkeypatch.setattr(image_memory, "LEAST", 4 * taken[1])  # enough for the half, not for the whole
    by_size = {(203, 131): 1, (406, 262): 2}
    assert decode(content, "RGB", by_size.__getitem__).size == (102, 66)
    assert decode(content, "RGB", by_size.__getitem__, PixelBudget(2**28)).size == (203, 131)
    assert decode(content, "RGB", lambda size: 2 if size == (203, 131) else 4).size == (102, 66)


def test_jpeg_2000_that_its_codec_cannot_halve_is_halved_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.effect_noise((151, 153), 60)
    shifted = saved(noise, "JPEG2000", tile_size=(100, 100), tile_offset=(0, 0), offset=(3, 5))
    whole = saved(noise, "JPEG2000", no_jp2=True)
    at = whole.index(b"\xff\x52")
    channel = struct.pack(">HHBB", 0xFF53, 9, 0, 0) + b"\0" + whole[at + 10 : at + 14]  # of no level
    contents = {
        "an offset": shifted,
        "fewer levels in a channel": whole[: at + 14] + channel + whole[at + 14 :],
    }
    levels = [image_memory.jpeg2000_levels(io.BytesIO(content)) for content in (shifted, whole)]
    assert levels == [0, 5]
    for name, content in contents.items():
        opened = decode(content, "L")
        assert opened.size == noise.size, name
        assert decode(content, "L", lambda _: 2).tobytes() == opened.reduce(2).tobytes(), name
    monkeypatch.setattr(image_memory, "LEAST", 0)
    for content in contents.values():
        with pytest.raises(DecodeError, match="set max_pixels"):
            decode(content, "L", lambda _: 2)


def test_a_palette_that_is_missing_is_black() -> None:
    image = Image.new("P", (8, 8), 3)
    content = bytearray(saved(image, "PNG"))
    at = content.index(b"PLTE") - 4
    del content[at : at + 12 + int.from_bytes(content[at : at + 4])]
    assert Image.open(io.BytesIO(content)).palette is None
    for factor in (1, 2):
        assert decode(bytes(content), "RGB", lambda _, factor=factor: factor).getcolors() == [
            (64 // factor**2, (0, 0, 0))
        ]


def test_a_file_that_is_read_whole_may_not_be_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    with path.open("r+b") as file:
        file.truncate(2**30 + 1)  # takes no room
    with pytest.raises(DecodeError, match="it has 1,073,741,825 bytes; an image of its format may have 1,073,741,824"):
        decode(path, "RGB")
    taken: list[int] = []
    monkeypatch.setattr(PixelBudget, "take", lambda _, pixels: taken.append(pixels))
    with path.open("r+b") as file:
        file.truncate(2**23 + 1)
    with pytest.raises(DecodeError):
        decode(path, "RGB")
    assert taken == [MAX_PIXELS]  # nobody else who counts decodes meanwhile
    Image.new("RGB", (16, 16)).save(tmp_path / "a.ico", sizes=[(16, 16)])
    assert decode(tmp_path / "a.ico", "RGB").size == (16, 16)
    assert taken == [MAX_PIXELS, MAX_PIXELS, 288]
    decode(saved(Image.new("RGB", (20, 10)), "WEBP"), "RGB")
    assert taken[3:] == [820]  # 4 bytes each; the codec has three times as many of its own


def test_each_pixel_of_a_qoi_may_be_read_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MOST_PIECES", 500)
    noise = Image.effect_noise((40, 30), 90).convert("RGB")
    assert decode(saved(noise, "QOI"), "RGB").tobytes() == noise.tobytes()
    monkeypatch.setattr(decoding, "_MOST_OF_QOI", 500)
    said = "it is a QOI image of 40 x 30 pixels, which Pillow reads one by one and would take too long for; convert it"
    with pytest.raises(DecodeError, match=said):
        decode(saved(noise, "QOI"), "RGB")
    assert decode(saved(noise, "PNG"), "RGB").tobytes() == noise.tobytes()  # converted


def test_a_header_of_millions_of_pieces_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MOST_PIECES", 2000)
    image = Image.new("P", (16, 16))
    png, gif, jpeg = saved(image, "PNG"), saved(image, "GIF"), saved(image.convert("L"), "JPEG")
    frame = gif.index(b",")
    broken = {
        "png": png[:33] + (with_chunk(png, b"prVt", b"")[33:45]) * 2000 + png[33:],
        "gif": gif[:frame] + b"!\xfe\1c\0" * 2000 + gif[frame:],
        "jpg": jpeg[:2] + b"\xff\xfe\0\2" * 2000 + jpeg[2:],
        "ppm": b"P5 " + b" " * 3000 + b"16 16 255 " + bytes(256),
    }
    for ending, content in broken.items():
        path = tmp_path / f"a.{ending}"
        path.write_bytes(content)
        for source in (content, path):
            with pytest.raises(DecodeError, match="it has more than 2,000 pieces"):
                decode(source, "RGB")
    for whole in (png, gif, jpeg):
        assert decode(whole, "RGB").size == (16, 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "ICO", "JPEG2000", "TGA"])
def test_mutated_images_are_images_or_a_sentence(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    options = {"TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    content = saved(pixels, kind, **options)
    refused = 0
    for _ in range(300):
        try:
            assert decode(mutated(content, rng), "RGB", budget=PixelBudget(10_000_000)).mode == "RGB"
        except DecodeError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 200
    assert refused > 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="libtiff is silenced on Linux alone")
def test_libtiff_writes_nothing_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    tiff = saved(Image.effect_noise((64, 64), 50), "TIFF", compression="tiff_lzw")
    with pytest.raises(DecodeError):
        decode(tiff[:8] + bytes(200) + tiff[208:], "L")
    assert capfd.readouterr() == ("", "")


def test_folders_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(DecodeError, match="not a regular file"):
            decode(path, "RGB")


def test_large_images_warn_nobody_and_filters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128 * 128 - 1)
    filters = list(warnings.filters)
    assert decode(IMAGES / "hopper_gray.jpg", "L").size == (128, 128)
    assert warnings.filters == filters


def test_threads_decode_at_once() -> None:
    filters = list(warnings.filters)
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(20):
                decode(IMAGES / "hopper_gray.jpg", "RGB")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert warnings.filters == filters


def test_sources_and_opened_images_agree() -> None:
    path = IMAGES / "hopper_orientation_5.jpg"
    expected = decode(path, "RGB").tobytes()
    assert decode(str(path), "RGB").tobytes() == expected
    assert decode(path.read_bytes(), "RGB").tobytes() == expected
    with path.open("rb") as file:
        assert decode(file, "RGB").tobytes() == expected
    with Image.open(path) as image:
        assert convert(image, "RGB").tobytes() == expected
    with Image.open(IMAGES / "truncated_jpeg.jpg") as image, pytest.raises(DecodeError, match="truncated"):
        convert(image, "RGB")


HEIC_HEAD = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"


def test_without_its_reader_a_heic_image_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2t_vit.data.decode.has_heif", lambda: False)
    monkeypatch.setattr("t2t_vit.data.decode._heif_is_registered", lambda: False)
    with pytest.raises(DecodeError, match="it is a HEIC image, which needs pillow-heif: pip install pillow-heif"):
        decode(HEIC_HEAD + bytes(100), "RGB")
    assert not is_image_ending("a.heic")
    assert is_image_ending("a.AVIF")


def test_heic_is_read_where_its_reader_is_installed(tmp_path: Path) -> None:
    import pillow_heif  # of the extra heif, which dev has

    pillow_heif.register_heif_opener()
    image = Image.new("RGB", (40, 30), (200, 40, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image.save(tmp_path / "a.heic", format="HEIF", quality=95, exif=exif.tobytes())
    assert is_image_ending("A.HEIC") and is_image_ending("a.heif")
    found = decode(tmp_path / "a.heic", "RGB")
    assert found.size == (30, 40)
    assert np.abs(np.asarray(found, np.int16) - (200, 40, 90)).max() <= 6
    assert image_size(tmp_path / "a.heic") == (30, 40)
    for broken in (HEIC_HEAD + bytes(100), (tmp_path / "a.heic").read_bytes()[:200]):
        with pytest.raises(DecodeError):
            decode(broken, "RGB")


def test_headers_tell_the_size_without_the_pixels(tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:60])
    assert image_size(tmp_path / "a.png") == (40, 30)
    for content, reason in ((b"", "empty"), (b"no image", "not an image"), (whole[:20], ".")):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(DecodeError, match=reason):
            image_size(tmp_path / "b.png")


def test_a_header_is_checked_within_the_limit_but_not_refused_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ICO is decoded as it is opened: whoever lifts the limit to see its header decodes whatever lies in it."""
    monkeypatch.setattr(decoding, "_of_this_process", lambda: PixelBudget(1000))
    for kind in ("ICO", "PNG"):
        content = io.BytesIO()
        Image.new("RGB", (64, 64)).save(content, kind, **({"sizes": [(64, 64)]} if kind == "ICO" else {}))
        with pytest.raises(decoding.TooManyPixelsError, match="max_pixels is 1,000"):
            image_size(io.BytesIO(content.getvalue()))
        decoding.check_header(io.BytesIO(content.getvalue()))
    with pytest.raises(DecodeError):
        decoding.check_header(io.BytesIO(b"no image"))
