"""The teacher's own preprocessing of the crop that the student sees."""

import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from t2t_vit.data.conversion import Conversion
from t2t_vit.data.decode import MODES, to_mode
from t2t_vit.data.preprocessing import Preprocessing, to_tensor

CPU = torch.device("cpu")


def pixels(channels: int, size: tuple[int, int] = (6, 5)) -> torch.Tensor:
    return torch.randint(0, 256, (2, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_same_crop_is_normalised_as_the_other_network_knows_it() -> None:
    one = Preprocessing((6, 5))
    other = Preprocessing((6, 5), mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1))
    images = pixels(3)
    torch.testing.assert_close(Conversion(one, other, CPU)(one.normalize(images)), other.normalize(images))


def test_the_same_preprocessing_changes_no_bit() -> None:
    same = Preprocessing((6, 5), crop_pct=0.5), Preprocessing((6, 5), crop_pct=1.0)
    images = same[0].normalize(pixels(3))
    assert Conversion(*same, CPU)(images) is images


def test_mixed_and_erased_images_are_the_same_mix() -> None:
    """The conversion is linear, also beyond 0..1: noise and mixtures come through as they are."""
    one, other = Preprocessing((6, 5)), Preprocessing((6, 5), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    first, second = torch.randn(2, 2, 3, 6, 5, generator=torch.Generator().manual_seed(1)) * 5
    view = Conversion(one, other, CPU)
    torch.testing.assert_close(view(0.3 * first + 0.7 * second), 0.3 * view(first) + 0.7 * view(second))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_another_size_is_resized_with_antialiasing(interpolation: str) -> None:
    one, other = Preprocessing((12, 10)), Preprocessing((6, 5), std=(0.5, 0.5, 0.5), interpolation=interpolation)
    images = pixels(3, (12, 10))
    mode = "bicubic" if interpolation == "bicubic" else "bilinear"
    expected = interpolate(images / 255, (6, 5), mode=mode, antialias=True)
    found = Conversion(one, other, CPU)(one.normalize(images))
    torch.testing.assert_close(found, (expected - torch.tensor(other.mean).view(3, 1, 1)) / 0.5)


def test_images_of_another_size_than_the_students_own_are_resized_too() -> None:
    one, other = Preprocessing((6, 5)), Preprocessing((6, 5))
    assert Conversion(one, other, CPU)(torch.randn(1, 3, 9, 9)).shape == (1, 3, 6, 5)


@pytest.mark.parametrize("there", [1, 3, 4])
@pytest.mark.parametrize("here", [1, 3, 4])
def test_channels_are_converted_as_decoding_converts_them(here: int, there: int) -> None:
    one, other = Preprocessing((6, 5), in_chans=here), Preprocessing((6, 5), in_chans=there)
    images = pixels(here)
    found = Conversion(one, other, CPU)(one.normalize(images))
    for image, result in zip(images, found, strict=True):
        array = image.permute(1, 2, 0).squeeze(2).numpy()
        decoded = to_tensor(to_mode(Image.fromarray(array, MODES[here]), MODES[there]))
        expected = other.normalize(decoded[None])[0]
        torch.testing.assert_close(result, expected, rtol=0, atol=1.01 / 255 / min(other.std))  # Pillow rounds
