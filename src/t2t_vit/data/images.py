"""What every image set offers, the one that lives in memory, parts of a set, and the checks on class lists."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import Mode, to_mode
from t2t_vit.data.memory import SharedArray
from t2t_vit.data.scan import class_name
from t2t_vit.data.seeds import Purpose, generator
from t2t_vit.errors import UserError
from t2t_vit.notes import counted

Split = Literal["train", "val"]
Note = Callable[[str], None]


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
            with suppress(OSError):  # then each gets its own copy
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
    """The images of `base` at `indices`, in that order; with the classes of `base` unless others are given.

    Args:
        classes, targets: the classes and the class of each of these images.
    """

    def __init__(
        self,
        base: ImageSet,
        indices: NDArray[np.int64],
        classes: tuple[str, ...] | None = None,
        targets: NDArray[np.int64] | None = None,
    ) -> None:
        self.base = base
        self.indices = indices
        self.classes = base.classes if classes is None else classes
        self.targets = base.targets[indices] if targets is None else targets

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Image.Image:
        return self.base.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.base.name(int(self.indices[index]))

    def of(self, base: ImageSet) -> "Subset":
        """The same part of `base`, which has the same images in another form."""
        return Subset(base, self.indices, self.classes, self.targets)


def check_class_count(images: ImageSet, num_classes: int, where: str) -> None:
    """Raise UserError where the set has another number of classes than `num_classes` (0 accepts any)."""
    found = len(images.classes)
    if num_classes not in (0, found):
        raise UserError(
            f"{where} has {counted(found, 'class', 'classes')} but num_classes is {num_classes};"
            f" set num_classes to {found}, or to 0 to count the classes of the data"
        )


def by_name(images: ImageSet, classes: Sequence[str], where: str, expected_where: str, note: Note) -> ImageSet:
    """The same images with the numbers that `classes` give to their classes, which are found by name.

    Args:
        classes: of a network or of the training images; names are compared in composed form (`scan.class_name`).
        note: gets a line where `images` lack some of them.

    Raises:
        UserError: a class of `images` is none of `classes`.
    """
    if tuple(images.classes) == tuple(classes):
        return images
    numbers = {class_name(name): number for number, name in enumerate(classes)}
    present = set(images.targets.tolist())
    own = [name for number, name in enumerate(images.classes) if number in present]
    extra = [name for name in own if class_name(name) not in numbers]
    found = set(map(class_name, own))
    missing = [name for name in classes if class_name(name) not in found]
    if extra:
        parts = [f"lacks {_quoted(missing)}"] if missing else []
        parts.append(f"has {_quoted(extra)} besides")
        way = _alike(extra, missing)
        if not way and len(extra) < len(own):
            way = f"; move {'that folder' if len(extra) == 1 else 'those folders'} elsewhere to evaluate the others"
        raise UserError(f"the classes of {where} differ from those of {expected_where}: it {' and '.join(parts)}{way}")
    if missing:
        there = len(classes) - len(missing)
        note(f"{where}: {there} of the {len(classes)} classes of {expected_where}; missing: {_quoted(missing)}")
    new = np.array([numbers.get(class_name(name), 0) for name in images.classes], np.int64)
    return Subset(images, np.arange(len(images)), tuple(classes), new[images.targets])


def _alike(extra: Sequence[str], missing: Sequence[str]) -> str:
    """What to add where a name was probably meant to be another one."""
    folded = {name.casefold(): name for name in missing}
    pairs = [f"{name!r} to {folded[name.casefold()]!r}" for name in extra if name.casefold() in folded]
    return f"; names must be equal letter by letter, so rename {_some(pairs)}" if pairs else ""


def _quoted(names: Sequence[str]) -> str:
    return _some([repr(name) for name in names])


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


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
