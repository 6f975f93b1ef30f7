"""What every image set offers, the one that lives in memory, parts of a set, and the checks on class lists."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import Mode, to_mode
from t2t_vit.data.memory import SharedArray
from t2t_vit.data.seeds import Purpose, generator
from t2t_vit.errors import UserError

Split = Literal["train", "val"]


class ImageSet(Protocol):
    """Labelled images by number, picklable, cheap to copy into a worker process."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a target is an index into them."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """The class of every image: (N,)."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Image `index`, upright, in the mode the set was opened with; raises DecodeError where it is broken."""

    def name(self, index: int) -> str:
        """What to call image `index` in a message: the path of its file where it has one."""


class ArrayImages:
    """Images held in memory as uint8 arrays.

    Args:
        pixels: (N, H, W) grey or (N, H, W, 3) RGB, uint8.
        targets: (N,) class indices.
        title: the set's name and split, for messages.
    """

    def __init__(
        self, pixels: NDArray[np.uint8], targets: NDArray[np.int64], classes: Sequence[str], mode: Mode, title: str
    ) -> None:
        assert len(pixels) == len(targets)
        self.pixels = pixels
        self.targets = targets
        self.classes = tuple(classes)
        self._mode: Mode = mode
        self._title = title
        self._shared: SharedArray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets: not the pixels but where they are, so that all workers look at the same memory."""
        if self._shared is None:
            with suppress(OSError):  # then each gets its own
                self._shared = SharedArray(self.pixels)
                self.pixels = self._shared.view()
        return {name: value for name, value in vars(self).items() if name != "pixels" or self._shared is None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._shared is not None:
            self.pixels = self._shared.view()

    def __len__(self) -> int:
        return len(self.targets)

    def read(self, index: int) -> Image.Image:
        return to_mode(Image.fromarray(self.pixels[index]), self._mode)

    def name(self, index: int) -> str:
        return f"{self._title} image {index}"


class Subset:
    """The images of `base` at `indices`, in that order."""

    def __init__(self, base: ImageSet, indices: NDArray[np.int64]) -> None:
        self._base = base
        self._indices = indices
        self.classes = base.classes
        self.targets = base.targets[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Image.Image:
        return self._base.read(int(self._indices[index]))

    def name(self, index: int) -> str:
        return self._base.name(int(self._indices[index]))


def check_class_count(images: ImageSet, num_classes: int, where: str) -> None:
    """Raise UserError where the set has another number of classes than `num_classes` (0 accepts any)."""
    found = len(images.classes)
    if num_classes not in (0, found):
        raise UserError(
            f"{where} has {found} {_plural(found, 'class', 'classes')} but num_classes is {num_classes};"
            f" set num_classes to {found}, or to 0 to take it from the data"
        )


def check_same_classes(found: Sequence[str], expected: Sequence[str], where: str, expected_where: str) -> None:
    """Raise UserError where two class lists differ, with the names that make the difference."""
    if tuple(found) == tuple(expected):
        return
    missing = [name for name in expected if name not in set(found)]
    extra = [name for name in found if name not in set(expected)]
    parts = [f"lacks {_some(missing)}"] if missing else []
    parts += [f"has {_some(extra)} besides"] if extra else []
    if not parts:
        parts = ["has them in another order"]
    raise UserError(f"the classes of {where} differ from those of {expected_where}: it {' and '.join(parts)}")


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def subset(images: ImageSet, count: int, seed: int, key_name: str = "the number of samples") -> ImageSet:
    """`count` images, class-balanced, the same ones for the same seed; -1 is the whole set.

    A class with fewer images than its share gives all it has, and the others share what is left over.

    Raises:
        UserError: `count` is neither -1 nor between 1 and the number of images; `key_name` is named.
    """
    if count == -1:
        return images
    if not 1 <= count <= len(images):
        raise UserError(
            f"{key_name} is {count} but there are {len(images)} images; choose 1 to {len(images)}, or -1 for all"
        )
    rng = generator(seed, 0, 0, Purpose.SUBSET)
    available = np.bincount(images.targets, minlength=len(images.classes))
    shares = _equal_shares(available, count, rng.permutation(len(available)))
    shuffled = rng.permutation(len(images))
    by_class = shuffled[np.argsort(images.targets[shuffled], kind="stable")]
    starts = np.cumsum(available) - available
    chosen = [by_class[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return Subset(images, np.sort(np.concatenate(chosen)))


def _equal_shares(available: NDArray[np.int64], count: int, turn: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of each class: the largest equal level that `count` pays for, the rest one each in the order `turn`."""
    low, high = 0, int(available.max())
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(available, level).sum() <= count else (low, level - 1)
    shares = np.minimum(available, low)
    unfilled = turn[available[turn] > low]
    shares[unfilled[: count - int(shares.sum())]] += 1
    return shares
