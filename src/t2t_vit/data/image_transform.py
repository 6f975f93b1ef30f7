"""The training transform of one image: crop, flip, augment, in the order of the T2T-ViT authors' recipe.

The augmentation policies are timm's: `rand-m9-mstd0.5-inc1` (RandAugment, arXiv 1909.13719), `original` and `v0`
(AutoAugment, arXiv 1805.09501), `augmix-m5-w4` (AugMix, arXiv 1912.02781), `3a` (3-Augment, arXiv 2204.07118). The
first one that is built imports timm; a call leaves the global generators as they were.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from t2t_vit.data.preprocessing import IMAGENET_MEAN, fit_channels, to_tensor
from t2t_vit.data.seeds import Keys, uniforms
from t2t_vit.errors import UserError

if TYPE_CHECKING:  # worker processes do not import torch
    from torch import Tensor

Size = tuple[int, int]
Box = tuple[int, int, int, int]

_ATTEMPTS = 10
_DETAIL = 2.0
_LOG_RATIO = math.log(4 / 3)
# The columns of a sample's random numbers. Another transform takes the next column and leaves these as they are.
_FLIP, _INTERPOLATION, _POLICY, _TOP, _LEFT = range(5)
_JITTER = 5  # three factors, then three that sort the order
_CROP = 11  # area and ratio of each attempt
_COLUMNS = _CROP + 2 * _ATTEMPTS

Policy = Callable[[Image.Image], Image.Image]

TRAIN_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_INTEGER, _NUMBER = r"\d+", r"\d+(\.\d+)?"
_POLICY_SECTION = rf"mstd{_NUMBER}"
_SECTIONS = {
    "rand": rf"m{_INTEGER}|n{_INTEGER}|p{_NUMBER}|mstd{_NUMBER}|mmax{_INTEGER}|inc[01]|t(weights|3a|3aw)",
    "augmix": rf"m{_INTEGER}|w{_INTEGER}|d{_INTEGER}|a{_NUMBER}|b[01]|mstd{_NUMBER}",
    "original": _POLICY_SECTION,
    "originalr": _POLICY_SECTION,
    "v0": _POLICY_SECTION,
    "v0r": _POLICY_SECTION,
    "3a": _POLICY_SECTION,
}


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop -> horizontal flip -> `auto_augment`, or `color_jitter` where that is empty -> uint8.

    Args:
        image_size: (height, width) of the result.
        min_crop: the crop's area is uniform in (min_crop, 1) of the image's; its width / height lies within 3/4..4/3
            of that of `image_size`.
        hflip: probability of a horizontal flip.
        color_jitter: brightness, contrast and saturation factors are uniform in 1 +- color_jitter, in random order.
        auto_augment: a policy in timm's grammar; empty for none.
        aa_interpolation: the policy's own: bilinear, bicubic, nearest or random.
        train_interpolation: the crop's: bilinear, bicubic, nearest, or random (bilinear or bicubic for each sample).
        mean: fills what the policy's geometric operations uncover, of the range 0..1.

    Raises:
        UserError: a policy that timm does not know, an unknown interpolation, a policy on images with alpha.
    """

    image_size: Size
    in_chans: int = 3
    min_crop: float = 0.08
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str = ""
    aa_interpolation: str = "bilinear"
    train_interpolation: str = "random"
    mean: tuple[float, ...] = IMAGENET_MEAN

    def __post_init__(self) -> None:
        for key, value in (
            ("aa_interpolation", self.aa_interpolation),
            ("train_interpolation", self.train_interpolation),
        ):
            if value not in TRAIN_INTERPOLATIONS and value != "random":
                raise UserError(f"{key} is {value!r}; choose from {', '.join(TRAIN_INTERPOLATIONS)}, random")
        if not 0.0 < self.min_crop <= 1.0:
            raise UserError(f"min_crop is {self.min_crop}; it must lie in (0, 1]")
        if self.auto_augment:
            check_policy(self.auto_augment)
            if self.in_chans == 4:
                raise UserError("auto_augment works on grey and RGB images; leave it empty with in_chans 4")
        object.__setattr__(self, "mean", fit_channels("mean", self.mean, self.in_chans))

    def numbers(self, keys: Keys) -> NDArray[np.float64]:
        """All the random numbers of a batch at once: (N,) keys -> (N, columns), a row for each `apply`."""
        return uniforms(keys, _COLUMNS)

    def __call__(self, image: Image.Image, key: int) -> "Tensor":
        """An image and its key -> uint8 tensor (C, height, width)."""
        return to_tensor(self.apply(image, self.numbers(np.array([key], np.uint64))[0].tolist()))

    def apply(self, image: Image.Image, numbers: Sequence[float]) -> Image.Image:
        """The transformed image of the size `image_size`, for one row of `numbers`."""
        height, width = self.image_size
        box = crop_box(image.size, width / height, self.min_crop, numbers)
        image = image.crop(box).resize((width, height), self._interpolation(numbers[_INTERPOLATION]))
        if numbers[_FLIP] < self.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.auto_augment:
            policy = build_policy(self.auto_augment, min(self.image_size), self.mean, self.aa_interpolation)
            return apply_policy(policy, image, int(numbers[_POLICY] * 2.0**53))
        if self.color_jitter > 0.0:
            return jitter(image, self.color_jitter, numbers[_JITTER : _JITTER + 6])
        return image

    def reduction(self, size: Size) -> int:
        """The power of two by which an image of `size` (width, height) may be made smaller before it is cropped.

        The smallest crop that can be drawn keeps `_DETAIL` times the pixels of `image_size` in each direction, so that
        it is still made smaller by the crop's own resampling; 1 for most photographs.
        """
        width, height = size
        target_height, target_width = self.image_size
        area = self.min_crop * width * height
        shape = target_width / target_height
        least = min(
            math.sqrt(area * shape * 3 / 4) / target_width,
            math.sqrt(area / (shape * 4 / 3)) / target_height,
            min(width, height) / max(self.image_size),
        )
        return 2 ** max(0, math.floor(math.log2(max(least, 1.0) / _DETAIL)))

    def _interpolation(self, number: float) -> Image.Resampling:
        if self.train_interpolation == "random":
            return Image.Resampling.BILINEAR if number < 0.5 else Image.Resampling.BICUBIC
        return TRAIN_INTERPOLATIONS[self.train_interpolation]


def crop_box(size: Size, shape: float, min_area: float, numbers: Sequence[float]) -> Box:
    """A random (left, top, right, bottom) within an image of `size` (width, height).

    The area is uniform in (min_area, 1) of the image's, the logarithm of width / height uniform within 3/4..4/3 of
    `shape`. Ten attempts are made; if none fits, the largest centred box of a permitted shape is taken (Szegedy et
    al., arXiv 1409.4842; torchvision's RandomResizedCrop).
    """
    image_width, image_height = size
    for attempt in range(_CROP, _COLUMNS, 2):
        area = image_width * image_height * (min_area + (1.0 - min_area) * numbers[attempt])
        ratio = shape * math.exp((2.0 * numbers[attempt + 1] - 1.0) * _LOG_RATIO)
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image_width and 0 < height <= image_height:
            left = int(numbers[_LEFT] * (image_width - width + 1))
            top = int(numbers[_TOP] * (image_height - height + 1))
            return left, top, left + width, top + height
    width = max(1, min(image_width, round(image_height * shape * 4 / 3)))
    height = max(1, min(image_height, round(image_width / (shape * 3 / 4))))
    left, top = (image_width - width) // 2, (image_height - height) // 2
    return left, top, left + width, top + height


def jitter(image: Image.Image, strength: float, numbers: Sequence[float]) -> Image.Image:
    """Brightness, contrast and saturation by factors uniform in 1 +- strength, in an order that the numbers sort."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in sorted(range(3), key=lambda i: numbers[3 + i]):
        factor = max(0.0, 1.0 + strength * (2.0 * numbers[i] - 1.0))
        image = enhancers[i](image).enhance(factor)
    return image


def check_policy(text: str) -> None:
    """Raise UserError where `text` is not of timm's grammar: timm itself skips sections that it does not know."""
    name, *sections = text.split("-")
    if name not in _SECTIONS:
        raise UserError(
            f"auto_augment {text!r} must start with one of {', '.join(_SECTIONS)}; an example: rand-m9-mstd0.5-inc1"
        )
    for section in sections:
        if not re.fullmatch(_SECTIONS[name], section):
            raise UserError(f"auto_augment {text!r} has a section {section!r} that {name} does not have")


def apply_policy(policy: Policy, image: Image.Image, seed: int) -> Image.Image:
    """The policy's image for `seed`; the global generators, which timm draws from, are as before afterwards."""
    with _seeded_globals(seed):
        return policy(image)


@lru_cache(maxsize=8)
def build_policy(text: str, side: int, mean: tuple[float, ...], interpolation: str) -> Policy:
    """timm's transform, as its own recipe builds it.

    Args:
        side: the shorter side of the network's input; fixed translations are 0.45 of it.
        mean: fills what a geometric operation uncovers; one value a channel, of the range 0..1.
        interpolation: of the geometric operations; `random` draws bilinear or bicubic.
    """
    from timm.data import auto_augment as timm_policies

    fill = tuple(min(255, round(255 * value)) for value in mean)
    options: dict[str, Any] = {"translate_const": int(side * 0.45), "img_mean": fill if len(fill) > 1 else fill[0]}
    if interpolation != "random":
        options["interpolation"] = TRAIN_INTERPOLATIONS[interpolation]
    if text.startswith("rand"):
        policy: Policy = timm_policies.rand_augment_transform(text, options)
    elif text.startswith("augmix"):
        policy = timm_policies.augment_and_mix_transform(text, options | {"translate_pct": 0.3})
    else:
        policy = timm_policies.auto_augment_transform(text, options)
    for operation in _operations(policy):
        if operation.aug_fn is timm_policies.posterize:
            operation.aug_fn = _posterize
    return policy


def _operations(policy: Any) -> Iterator[Any]:
    """timm's operations within one of its policies."""
    yield from getattr(policy, "ops", ())
    for sequence in getattr(policy, "policy", ()):
        yield from sequence


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's strongest level keeps 0 bits, a black image, which recent versions of Pillow refuse."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


@contextmanager
def _seeded_globals(seed: int) -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
