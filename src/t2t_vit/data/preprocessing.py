"""One image to the network's input: the same pixels in training-time evaluation, inference and every export."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import MODES, Mode, to_mode

if TYPE_CHECKING:  # torch is imported only in functions that compute: decoding processes do not need it
    import torch
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Longer side over shorter side; of longer images only the middle is used.
MOST_ELONGATED = 64
LARGEST_SIDE = 8192
LARGE = 7 * 2**22  # pixels; a pixel of a larger image is the mean of several, so that decoding takes less memory
_DETAIL = 3
SMALLEST_CROP = 0.01  # below it an image would be resized to a hundred times the input of the network
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize to cover floor(image_size / crop_pct), crop the centre, normalise by mean and standard deviation.

    For square sizes the pixels equal torchvision's `Resize(floor(size / crop_pct))` + `CenterCrop(size)` on Pillow
    images, the evaluation of the T2T-ViT authors (crop_pct 0.9, bicubic).

    `mean` and `std` are in units of the pixel range 0..1, a value a channel. Values for three colours are fitted to
    one channel (their average) and to four (alpha: mean 0.5, std 0.5); a single value serves all channels.

    Raises:
        ValueError: a value out of range, or means for another number of channels.
    """

    image_size: tuple[int, int]
    crop_pct: float = 0.9
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    in_chans: int = 3
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.in_chans not in MODES:
            raise ValueError(f"in_chans is {self.in_chans}; images have 1 (grey), 3 (RGB) or 4 (RGBA) channels")
        if len(self.image_size) != 2 or not all(1 <= side <= LARGEST_SIDE for side in self.image_size):
            raise ValueError(f"image_size is {self.image_size}; it must be (height, width), 1 to {LARGEST_SIDE} each")
        if not SMALLEST_CROP <= self.crop_pct <= 1.0:
            raise ValueError(f"crop_pct is {self.crop_pct}; it must lie between {SMALLEST_CROP} and 1")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise ValueError(f"mean is {self.mean} and std {self.std}; every value must be finite")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation is {self.interpolation!r}; choose from {', '.join(INTERPOLATIONS)}")
        if min(self.std) <= 0.0:
            raise ValueError(f"std is {self.std}; every value must be positive")
        object.__setattr__(self, "image_size", (int(self.image_size[0]), int(self.image_size[1])))
        object.__setattr__(self, "mean", fit_channels("mean", self.mean, self.in_chans))
        object.__setattr__(self, "std", fit_channels("std", self.std, self.in_chans))

    @property
    def mode(self) -> Mode:
        """Pillow's name of the pixel format: `"L"`, `"RGB"` or `"RGBA"`."""
        return MODES[self.in_chans]

    def __call__(self, image: Image.Image) -> "Tensor":
        """An upright image of any mode -> uint8 tensor (in_chans, height, width)."""
        import torch

        return torch.from_numpy(self.pixels(image))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """An upright image of any mode -> uint8 (in_chans, height, width)."""
        image = _without_far_ends(to_mode(image, self.mode))
        resized = image.resize(self.resized_size(image.size), INTERPOLATIONS[self.interpolation])
        height, width = self.image_size
        left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
        return to_array(resized.crop((left, top, left + width, top + height)))

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of an image -> the (width, height) it is resized to before the crop."""
        width, height = size
        cover_height, cover_width = (math.floor(side / self.crop_pct) for side in self.image_size)
        if cover_width * height >= cover_height * width:
            return cover_width, max(cover_height, int(cover_width * height / width))
        return max(cover_width, int(cover_height * width / height)), cover_height

    def reduction(self, size: tuple[int, int]) -> int:
        """The power of two by which an image of `size` (width, height) is made smaller as it is decoded; 1 up to
        `LARGE` pixels. The resizing still makes it `_DETAIL` times smaller, or more."""
        width, height = size
        target = max(math.floor(side / self.crop_pct) for side in self.image_size)
        factor = 1
        while width * height > LARGE * factor**2 and min(size) >= 2 * factor * _DETAIL * target:
            factor *= 2
        return factor

    def normalize(self, images: "Tensor") -> "Tensor":
        """uint8 (B, in_chans, H, W) -> float32 (images / 255 - mean) / std, on the images' device."""
        mean, std = _statistics(self.mean, self.std, images.device)
        return images.float().sub_(mean).div_(std)

    def denormalize(self, images: "Tensor") -> "Tensor":
        """The inverse of `normalize`: float (B, in_chans, H, W) -> uint8, clipped to 0..255."""
        mean, std = _statistics(self.mean, self.std, images.device)
        return images.float().mul(std).add_(mean).round_().clamp_(0, 255).byte()

    def to_dict(self) -> dict[str, Any]:
        """Primitives only: what a checkpoint or an exported file carries."""
        return {
            "image_size": list(self.image_size),
            "crop_pct": self.crop_pct,
            "mean": list(self.mean),
            "std": list(self.std),
            "in_chans": self.in_chans,
            "interpolation": self.interpolation,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; raises ValueError where a value is wrong or a key is missing or unknown."""
        given = dict(values)
        missing, unknown = _FIELDS - given.keys(), given.keys() - _FIELDS
        if missing or unknown:
            raise ValueError(f"preprocessing: missing {sorted(missing)}, unknown {sorted(unknown)}")
        for key in ("image_size", "mean", "std"):
            given[key] = tuple(given[key])
        try:
            return cls(**given)
        except OverflowError:  # JSON allows whole numbers that no float can hold
            raise ValueError("preprocessing: a number is too large") from None


_FIELDS = frozenset(Preprocessing.__dataclass_fields__)


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of a sliver: an image of 1 x 60,000 pixels, resized whole, would take gigabytes to be cropped."""
    width, height = image.size
    keep = MOST_ELONGATED * min(width, height)
    if max(width, height) <= keep:
        return image
    left, top = max(0, width - keep) // 2, max(0, height - keep) // 2
    return image.crop((left, top, min(width, left + keep), min(height, top + keep)))


def to_tensor(image: Image.Image) -> "Tensor":
    """8-bit pixels -> uint8 tensor (C, H, W) of its own memory."""
    import torch

    return torch.from_numpy(to_array(image))


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """8-bit pixels -> uint8 (C, H, W) of its own memory."""
    pixels: NDArray[np.uint8] = np.array(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def fit_channels(name: str, values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """One value a channel; ValueError, naming the values, where their number fits neither the channels nor colours."""
    fitted = tuple(float(value) for value in values)
    if len(fitted) == in_chans:
        return fitted
    if len(fitted) == 1:
        return fitted * in_chans
    if len(fitted) == 3 and in_chans == 1:
        return (sum(fitted) / 3,)
    if len(fitted) == 3 and in_chans == 4:
        return (*fitted, 0.5)
    raise ValueError(f"{name} has {len(fitted)} values for {in_chans} channels; give one, or one per channel")


@lru_cache(maxsize=32)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: "torch.device") -> "tuple[Tensor, Tensor]":
    """Mean and standard deviation in units of 0..255, each (C, 1, 1), kept on the device."""
    import torch

    both = torch.tensor([mean, std], dtype=torch.float64).mul(255.0).to(torch.float32)
    on_device = both.to(device).view(2, -1, 1, 1)
    return on_device[0], on_device[1]
