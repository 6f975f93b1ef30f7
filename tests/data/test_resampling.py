"""Crops and resizes of a batch against Pillow's, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.data.resampling import resized_crops

FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "wanted"), [((28, 28), (28, 28)), ((32, 32), (24, 40)), ((32, 32), (64, 64)), ((30, 47), (9, 5))]
)
def test_every_pixel_is_pillows(size: tuple[int, int], wanted: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(sum(wanted) + channels)
    count, (height, width) = 300, size
    smooth = rng.integers(0, 256, (count, 1, 1, channels))
    pixels = np.where(rng.random((count, 1, 1, 1)) < 0.5, rng.integers(0, 256, (count, *size, channels)), smooth)
    pixels[::7] = pixels[::7] // 200 * 255  # black and white: bicubic overshoots
    left, top = rng.integers(0, width, count), rng.integers(0, height, count)
    right, bottom = rng.integers(left, width) + 1, rng.integers(top, height) + 1
    boxes = np.stack([left, top, right, bottom], axis=1)
    boxes[:3] = [0, 0, width, height]
    bicubic = rng.random(count) < 0.5
    images = torch.from_numpy(pixels.astype(np.uint8)).permute(0, 3, 1, 2)
    ours = resized_crops(images, torch.from_numpy(boxes), wanted, torch.from_numpy(bicubic))
    assert ours.shape == (count, channels, *wanted)
    assert ours.dtype == torch.uint8
    for i in range(count):
        image = Image.fromarray(pixels[i, :, :, 0 if channels == 1 else slice(None)].astype(np.uint8))
        resized = image.crop(tuple(boxes[i])).resize((wanted[1], wanted[0]), FILTERS[int(bicubic[i])])
        expected = np.asarray(resized).reshape(*wanted, channels).transpose(2, 0, 1)
        assert np.array_equal(ours[i].numpy(), expected), i
