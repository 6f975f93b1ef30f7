"""One image to answer for, wherever it lies, and what becomes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from t2t_vit.data.decode import is_image_ending

Stamp = tuple[int, int]
BATCH_SIZE = 32  # images of a forward pass, by default
NOT_FINITE = "the network's answer is not a finite number; try another amp_level"


class UnreadableError(Exception):
    """Why the content of an item cannot be had, a sentence without its name."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to answer for.

    Attributes:
        path: its name in every output: what the user gave, joined with the file's name.
        content: the bytes of an archive's member, to be read when its turn comes or never; raises UnreadableError.
            None: `path` is a file.
        archive: stamp of the archive that holds it.
        reason: why there is nothing to read, where that is known already.
    """

    path: str
    content: Callable[[], bytes] | None = None
    archive: Stamp | None = None
    reason: str = ""

    def stamp(self) -> Stamp | None:
        """What changes when the image does; None where it cannot be had."""
        return self.archive if self.content is not None else stamp_of(self.path)


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one image.

    Attributes:
        index: its place in the logits.
        name: its name, or None where the weights carry no names.
        probability: its softmax probability, 0..1.
    """

    index: int
    name: str | None
    probability: float


@dataclass(frozen=True)
class ImageResult:
    """What became of one image.

    Attributes:
        path: its name, as `Item.path`.
        predictions: the most probable classes, best first; empty where there is a `reason`.
        reason: a sentence that says why there is no prediction; empty where there is one.
    """

    path: str
    predictions: tuple[Prediction, ...] = ()
    reason: str = ""


def stamp_of(path: str) -> Stamp | None:
    """Size in bytes and time of the last change in nanoseconds; None where there is no such file."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return status.st_size, status.st_mtime_ns


def is_image_name(path: str) -> bool:
    """Whether the last part of a path is not hidden and has an image ending, in any case."""
    name = path.rpartition("/")[2]
    return not name.startswith(".") and is_image_ending(name)
