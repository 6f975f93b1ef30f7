"""What every image set offers, the one that lives in memory, and the checks on class lists."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.decode import Mode, to_mode
from t2t_vit.data.memory_file import SharedArray
from t2t_vit.errors import UserError


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
