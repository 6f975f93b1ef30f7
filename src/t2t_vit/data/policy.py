"""timm's augmentation policies: their grammar, and a call that leaves the global generators as they were.

`rand-m9-mstd0.5-inc1` (RandAugment, arXiv 1909.13719), `original` and `v0` (AutoAugment, arXiv 1805.09501),
`augmix-m5-w4` (AugMix, arXiv 1912.02781), `3a` (3-Augment, arXiv 2204.07118). The first one that is built imports timm.
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from t2t_vit.errors import UserError

Policy = Callable[[Image.Image], Image.Image]

INTERPOLATIONS = {
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


def check_policy(text: str) -> None:
    """Raise UserError where `text` is not of timm's grammar: timm itself skips sections that it does not know."""
    name, *sections = text.split("-")
    if name not in _SECTIONS:
        raise UserError(
            f"auto_augment {text!r} starts with none of {', '.join(_SECTIONS)}; an example: rand-m9-mstd0.5-inc1"
        )
    for section in sections:
        if not re.fullmatch(_SECTIONS[name], section):
            raise UserError(f"auto_augment {text!r} has a section {section!r} that {name} does not know")


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
        options["interpolation"] = INTERPOLATIONS[interpolation]
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
