import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from t2t_vit.data import decode as decoding
from t2t_vit.data import preprocessing as module
from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.decode import decode
from t2t_vit.data.preprocessing import INTERPOLATIONS, Preprocessing
from t2t_vit.data.samples import Decoded
from t2t_vit.inference.image_like import opened


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, len(mode)), np.uint8)
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels)


@pytest.mark.parametrize("size", [(100, 75), (75, 100), (40, 40), (31, 200), (333, 37)])
@pytest.mark.parametrize("crop_pct", [0.9, 1.0, 0.875])
def test_square_equals_torchvision(size: tuple[int, int], crop_pct: float) -> None:
    image = noise(*size)
    resized = functional.resize(image, math.floor(32 / crop_pct), InterpolationMode.BICUBIC)
    expected = functional.pil_to_tensor(functional.center_crop(resized, 32))
    assert torch.equal(Preprocessing((32, 32), crop_pct)(image), expected)


@pytest.mark.parametrize("image_size", [(28, 56), (56, 28), (32, 32)])
@pytest.mark.parametrize("size", [(100, 75), (1, 1), (1, 500), (500, 3)])
def test_any_shape_is_covered_and_cropped(image_size: tuple[int, int], size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(image_size, 0.9)
    width, height = preprocessing.resized_size(size)
    assert (height, width) >= tuple(math.floor(side / 0.9) for side in image_size)
    assert math.floor(image_size[0] / 0.9) == height or math.floor(image_size[1] / 0.9) == width
    assert preprocessing(noise(*size)).shape == (3, *image_size)


def test_grey_and_alpha_channels() -> None:
    assert Preprocessing((8, 8), in_chans=1)(noise(20, 10)).shape == (1, 8, 8)
    rgba = Preprocessing((8, 8), in_chans=4)(noise(20, 10, "RGBA"))
    assert rgba.shape == (4, 8, 8)
    assert rgba[3].float().std() > 0
    deep = Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16))
    assert Preprocessing((8, 8), 1.0)(deep).unique().tolist() == [127]


def test_normalize_is_the_usual_formula_and_has_an_inverse() -> None:
    preprocessing = Preprocessing((4, 4))
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = functional.normalize(images / 255, list(preprocessing.mean), list(preprocessing.std))
    normalized = preprocessing.normalize(images)
    torch.testing.assert_close(normalized, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(preprocessing.denormalize(normalized), images)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_interpolation_is_its_own(interpolation: str) -> None:
    image = noise(50, 50)
    expected = np.asarray(image.resize((32, 32), Image.Resampling[interpolation.upper()]))
    found = Preprocessing((32, 32), 1.0, interpolation=interpolation)(image)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_denormalize_rounds_and_clips() -> None:
    preprocessing = Preprocessing((1, 1), mean=(0.1, 0.5, 0.7), std=(0.2, 0.25, 0.4))
    levels = torch.tensor([[-3.0, 0.4, 254.6], [99.6, 100.4, 300.0]]).view(2, 3, 1, 1)
    normalised = (levels / 255 - torch.tensor(preprocessing.mean).view(3, 1, 1)) / torch.tensor(preprocessing.std).view(
        3, 1, 1
    )
    assert preprocessing.denormalize(normalised).flatten(1).tolist() == [[0, 0, 255], [100, 100, 255]]


def test_mean_and_std_are_fitted_to_the_channels() -> None:
    assert Preprocessing((4, 4), in_chans=1).mean == pytest.approx((0.449,), abs=1e-3)
    assert Preprocessing((4, 4), in_chans=4).mean == (0.485, 0.456, 0.406, 0.5)
    assert Preprocessing((4, 4), mean=(0.5,), std=(0.5,)).mean == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="mean has 2 values"):
        Preprocessing((4, 4), mean=(0.5, 0.5))


def test_dict_round_trip_and_its_errors() -> None:
    preprocessing = Preprocessing((28, 56), 1.0, (0.5,), (0.25,), 1, "bilinear")
    values = preprocessing.to_dict()
    assert Preprocessing.from_dict(values) == preprocessing
    assert all(isinstance(value, int | float | str | list) for value in values.values())
    with pytest.raises(ValueError, match="unknown"):
        Preprocessing.from_dict(values | {"sharpen": 1})
    del values["mean"]
    with pytest.raises(ValueError, match="missing"):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_pct": 0.0},
        {"crop_pct": 1.5},
        {"in_chans": 2},
        {"interpolation": "cubic"},
        {"std": (0.0, 1.0, 1.0)},
        {"image_size": (0, 4)},
    ],
)
def test_values_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocessing(**({"image_size": (4, 4)} | wrong))


def test_a_sliver_takes_no_more_memory_than_a_picture() -> None:
    """Resized whole before the crop, this one took 16 GB."""
    sliver = Image.new("RGB", (1, 60_000), "white")
    sliver.paste("red", (0, 29_990, 1, 30_010))
    image = Preprocessing((32, 32))(sliver)
    assert image.shape == (3, 32, 32)
    assert image[1].float().mean() < 10, "the middle is shown"


@pytest.mark.parametrize(
    ("size", "factor"),
    [((7000, 4000), 1), ((12000, 9000), 2), ((13377, 13377), 4), ((83000, 1300), 1), ((30000, 20990), 8)],
)
def test_only_a_large_image_is_decoded_smaller_and_never_to_less_than_is_needed(
    size: tuple[int, int], factor: int
) -> None:
    assert Preprocessing((224, 224)).reduction(size) == factor
    assert Preprocessing((224, 224)).reduction(size[::-1]) == factor
    assert Preprocessing((8192, 8192)).reduction(size) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_what_is_decoded_smaller_looks_the_same(
    kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, preprocessing = tmp_path / "image", Preprocessing((32, 48))
    smooth = Image.effect_noise((9, 7), 80).resize((901, 703), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[274] = 6  # it is to be turned
    (smooth.convert("RGB") if kind == "JPEG" else smooth).save(path, kind, exif=exif)
    plain = preprocessing.pixels(decode(path, "RGB"))
    monkeypatch.setattr(module, "LARGE", 200_000)
    monkeypatch.setattr(decoding, "AT_ONCE", 50_000)
    assert preprocessing.reduction(smooth.size) == 2
    smaller = Decoded(preprocessing, PixelBudget())(str(path))
    assert isinstance(smaller, np.ndarray)
    assert np.abs(smaller.astype(int) - plain).max() <= 6
    for given in (path, path.read_bytes()):
        made = opened(given, "RGB", preprocessing.reduction)
        assert made.size == (352, 451)
        np.testing.assert_array_equal(preprocessing.pixels(made), smaller)


def test_rows_that_are_made_smaller_one_after_the_other_are_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(101, 67, "RGBA")
    whole = image.convert("RGBA")
    expected = decoding.to_mode(whole, "RGB").reduce(4)
    monkeypatch.setattr(decoding, "AT_ONCE", 900)
    assert decoding.to_mode(whole, "RGB", 4).tobytes() == expected.tobytes()
