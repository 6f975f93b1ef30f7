"""Image folders: one folder a class, images anywhere below it."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from t2t_vit.data.decode import EXTENSIONS, Mode, decode
from t2t_vit.errors import UserError


class FolderImages:
    """The images of `folder/CLASS/**/*`, classes sorted by name, files sorted by path within a class.

    Files count by their ending, in any case (`EXTENSIONS`); hidden files and folders do not, links do.

    Raises:
        UserError: the folder is missing or no folder, holds no class folders, or a class folder holds no images.
    """

    def __init__(self, folder: Path, mode: Mode) -> None:
        self.folder = folder
        self._mode: Mode = mode
        self.classes = _classes(folder)
        paths: list[bytes] = []
        counts: list[int] = []
        for name in self.classes:
            found = sorted(_image_files(folder / name))
            counts.append(len(found))
            paths += (os.fsencode(f"{name}/{path}") for path in found)
        _check_counts(folder, self.classes, counts)
        self.targets = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        # One block of bytes instead of a million strings: it is sent to every worker process.
        self._paths = b"".join(paths)
        self._ends = np.cumsum([len(path) for path in paths])

    def __len__(self) -> int:
        return len(self.targets)

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.folder / os.fsdecode(self.relative(index))

    def relative(self, index: int) -> bytes:
        """CLASS/PATH of image `index`: its name wherever the folder lies."""
        start = int(self._ends[index - 1]) if index > 0 else 0
        return self._paths[start : int(self._ends[index])]

    def read(self, index: int) -> Image.Image:
        return decode(self.path(index), self._mode)

    def name(self, index: int) -> str:
        return str(self.path(index))


def _classes(folder: Path) -> tuple[str, ...]:
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError as error:
        raise UserError(f"the folder {folder} does not exist{_neighbours(folder)}") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error
    classes = tuple(sorted(name for name, is_folder in names.items() if is_folder))
    if classes:
        return classes
    if any(_is_image(name) for name in names):
        raise UserError(
            f"{folder} holds images but no class folders; put the images of each class into a folder of its name"
        )
    raise UserError(f"{folder} holds no class folders; it must hold one folder of images a class")


def _image_files(folder: Path) -> Iterator[str]:
    """Paths of images below `folder`, relative to it, following links but never in a circle."""
    pending: list[tuple[str, tuple[str, ...]]] = [("", ())]
    while pending:
        relative, above = pending.pop()
        here = os.path.realpath(folder / relative)
        if here in above:
            continue
        try:
            with os.scandir(folder / relative) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{relative}/{entry.name}" if relative else entry.name
                    if entry.is_dir():
                        pending.append((path, (*above, here)))
                    elif _is_image(entry.name):
                        yield path
        except OSError as error:
            raise UserError(f"{folder / relative} cannot be read ({error.strerror})") from error


def _is_image(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in EXTENSIONS


def _check_counts(folder: Path, classes: tuple[str, ...], counts: list[int]) -> None:
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if not empty:
        return
    if len(empty) == len(classes):
        raise UserError(f"{folder} holds class folders but no images in them; images end in .jpg, .png or the like")
    others = f" (and so do {len(empty) - 1} more)" if len(empty) > 1 else ""
    raise UserError(
        f"the class folder {folder / empty[0]} holds no images{others};"
        " add some, or remove the folder and give one class fewer"
    )


def _neighbours(folder: Path) -> str:
    try:
        names = sorted(entry.name for entry in os.scandir(folder.parent) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return f", nor does {folder.parent}" if not folder.parent.exists() else ""
    if not names:
        return f"; {folder.parent} holds no folders"
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"; {folder.parent} holds {shown}"
