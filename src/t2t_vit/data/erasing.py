"""Random erasing of a batch on its device (Zhong et al., arXiv 1708.04896; area and ratio as timm draws them)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.data.seeds import Keys, Purpose, keys, normals, uniforms
from t2t_vit.ops.splitmix import words

MODES = ("const", "rand", "pixel")
_ATTEMPTS = 10
_AREA = (0.02, 1 / 3)
_LOG_RATIO = math.log(1 / 0.3)


@dataclass(frozen=True)
class RandomErasing:
    """Fill random boxes of some normalised images with other values.

    Args:
        prob: probability that an image is erased.
        mode: `const` fills with 0, `rand` with a normal colour a box, `pixel` with normal noise.
        max_count: an image gets 1 to `max_count` boxes (uniform), each of area uniform in 0.02..1/3 of the image,
            divided by their number, and height / width log-uniform in 0.3..1/0.3.
    """

    prob: float = 0.0
    mode: str = "pixel"
    max_count: int = 1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"re_mode is {self.mode!r}; choose from {', '.join(MODES)}")
        if self.max_count < 1:
            raise ValueError(f"re_count is {self.max_count}; it must be at least 1")

    def __call__(self, images: Tensor, seed: int, epoch: int, indices: NDArray[np.int64]) -> Tensor:
        """Erase in place: (B, C, H, W) float on any device, `indices` the (B,) numbers of the samples.

        What happens to a sample depends on (seed, epoch, index) alone.
        """
        height, width = images.shape[-2:]
        draws = keys(seed, epoch, indices, Purpose.ERASE)
        chosen = np.flatnonzero(uniforms(draws, 1)[:, 0] < self.prob)
        if len(chosen) == 0:
            return images
        boxes = self._boxes(draws[chosen], height, width)
        noise_keys = keys(seed, epoch, indices[chosen], Purpose.ERASE_NOISE)
        rows = torch.from_numpy(chosen).to(images.device, non_blocking=True)
        erased = images.index_select(0, rows)
        for box, fill in zip(boxes, self._fills(erased, noise_keys), strict=True):
            erased = torch.where(inside(box, height, width, images.device), fill, erased)
        return images.index_copy_(0, rows, erased)

    def _boxes(self, draws: Keys, height: int, width: int) -> NDArray[np.int64]:
        """(max_count, n, 4) boxes as top, bottom, left, right; empty ones where an image has fewer."""
        numbers = uniforms(draws, 2 + self.max_count * _ATTEMPTS * 4)
        count = 1 + np.floor(numbers[:, 1] * self.max_count)
        attempts = numbers[:, 2:].reshape(-1, self.max_count, _ATTEMPTS, 4)
        low, high = _AREA
        area = (low + (high - low) * attempts[..., 0]) * (height * width) / count[:, None, None]
        ratio = np.exp((2.0 * attempts[..., 1] - 1.0) * _LOG_RATIO)
        tall, wide = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (tall < height) & (wide < width)
        first = fits.argmax(axis=2)[..., None]
        used = fits.any(axis=2) & (np.arange(self.max_count) < count[:, None])
        tall, wide, top, left = (
            np.take_along_axis(values, first, axis=2)[..., 0]
            for values in (tall, wide, attempts[..., 2], attempts[..., 3])
        )
        top, left = np.floor(top * (height - tall + 1)), np.floor(left * (width - wide + 1))
        boxes = np.stack([top, top + tall, left, left + wide], axis=-1) * used[..., None]
        return np.ascontiguousarray(boxes.astype(np.int64).transpose(1, 0, 2))

    def _fills(self, images: Tensor, noise_keys: Keys) -> list[Tensor]:
        """What the boxes of each turn are filled with: broadcasts to (n, C, H, W)."""
        if self.mode == "const":
            return [images.new_zeros(())] * self.max_count
        if self.mode == "pixel":
            return [pixel_noise(noise_keys, images)] * self.max_count
        channels = images.shape[1]
        colours = normals(noise_keys, self.max_count * channels).astype(np.float32)
        on_device = torch.from_numpy(colours).to(images.device, images.dtype, non_blocking=True)
        return list(on_device.view(-1, self.max_count, channels, 1, 1).unbind(1))


def inside(boxes: NDArray[np.int64], height: int, width: int, device: torch.device) -> Tensor:
    """(n, 4) boxes as top, bottom, left, right -> bool (n, 1, H, W), true within."""
    edges = torch.from_numpy(boxes).to(device, non_blocking=True).view(-1, 4, 1)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= edges[:, 0]) & (rows < edges[:, 1])
    in_columns = (columns >= edges[:, 2]) & (columns < edges[:, 3])
    return (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)


def pixel_noise(noise_keys: Keys, images: Tensor) -> Tensor:
    """Standard normal numbers like `images`, (n, C, H, W), a function of each image's key and the position.

    The n-th pair of numbers comes from the n-th SplitMix64 output of the key (Box and Muller 1958), computed on the
    device: an image's noise is the same in every batch and on every device, but for the rounding of log and cos.
    """
    count = images[0].numel()
    start = torch.from_numpy(noise_keys.view(np.int64)).to(images.device, non_blocking=True)
    bits = words(start, 1, (count + 1) // 2)
    first = ((bits >> 40) & 0xFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-24)
    angle = (bits & 0xFFFFFF).to(torch.float32).mul_(2.0 * math.pi * 2.0**-24)
    radius = first.log_().mul_(-2.0).sqrt_()
    pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return pairs[:, :count].view_as(images).to(images.dtype)
