"""What lies in a folder of class folders: its images by class, and what is left out, counted and named."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from t2t_vit.data.decode import HEIF_EXTENSIONS, HEIF_INSTALL, is_image_ending
from t2t_vit.data.walk import Identity, identity_of, is_folder, is_unknown, walk
from t2t_vit.errors import UserError, printable
from t2t_vit.notes import counted

# What cameras, servers and operating systems put beside images, in lower case.
JUNK = frozenset({
    "@eadir", "#recycle", "@recycle", "@recently-snapshot", "__macosx", "$recycle.bin", "recycler", "lost+found",
    "system volume information", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
})  # fmt: skip
# Endings of images that are not read: a folder of them was meant as a class.
IMAGES_NOT_READ = HEIF_EXTENSIONS | {
    ".arw", ".cr2", ".cr3", ".dcm", ".dng", ".eps", ".exr", ".hdr", ".jxl", ".jxr", ".nef", ".orf", ".pdf", ".psd",
    ".raf", ".raw", ".rw2", ".svg", ".wdp", ".xcf",
}  # fmt: skip
# Files that a run writes, up to three levels below the folder of all runs.
_OF_A_RUN = re.compile(r"run\.json|checkpoints\.json|.+-\d+_\d+\.ckpt|events\.out\.tfevents\..+")
_RUN_LEVELS = 3
_LONGEST_SHOWN = 500


def class_name(folder: str) -> str:
    """The class of a folder: its name in composed form (Unicode's NFC), printable.

    Systems write one name in several ways: macOS decomposes an umlaut, Linux keeps what it is given.
    """
    return printable(unicodedata.normalize("NFC", folder))


@dataclass
class Scan:
    """What was found in `folder`.

    images    folder -> paths of its images, relative to it, sorted; folders without images are missing
    unread    ending -> files in class folders that are not read; "" for those without one
    empty     folders in which there is nothing
    of_images_not_read   folders whose images all have endings that are not read
    without_images       folders that hold other files only
    loose     images that lie beside the folders, and how many
    junk      name -> entries of hidden files and folders, thumbnails and the like
    of_runs   folders that a run of ours wrote
    links     links beside the class folders that lead nowhere or to a folder above
    """

    folder: Path
    images: dict[str, list[str]] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    of_images_not_read: list[str] = field(default_factory=list)
    without_images: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    loose_images: int = 0
    junk: Counter[str] = field(default_factory=Counter)
    of_runs: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def folders(self) -> list[str]:
        """The folders that hold images, sorted."""
        return sorted(self.images)

    def by_class(self) -> dict[str, list[str]]:
        """Class -> FOLDER/PATH of its images, classes sorted by name; equal names of folders are one class."""
        classes: dict[str, list[str]] = {}
        for folder in sorted(self.images, key=lambda name: (class_name(name), name)):
            classes.setdefault(class_name(folder), []).extend(f"{folder}/{path}" for path in self.images[folder])
        return classes

    def below(self, level: str) -> list[str]:
        """Folders directly below FOLDER or FOLDER/PATH that hold images, at any depth."""
        return sorted({rest.split("/", 1)[0] for rest in self._within(level) if "/" in rest})

    def directly(self, level: str) -> bool:
        """Whether images lie in FOLDER or FOLDER/PATH itself."""
        return any("/" not in rest for rest in self._within(level))

    def _within(self, level: str) -> Iterator[str]:
        folder, _, path = level.partition("/")
        start = f"{path}/" if path else ""
        return (image[len(start) :] for image in self.images.get(folder, ()) if image.startswith(start))

    def check_some(self) -> None:
        """Refuse a folder without classes.

        Raises:
            UserError: it holds no class folders, or no images in them.
        """
        if self.images:
            return
        if self.of_images_not_read:
            raise UserError(self._not_read())
        if self.empty or self.without_images:
            raise UserError(
                f"{self.folder} holds class folders without images; image files end in .jpg, .png or similar"
            )
        if self.loose_images:
            raise UserError(
                f"{self.folder} holds images but no class folders; put the images of each class into a folder of its "
                f"name{self._level_above()}"
            )
        others = f" ({self._left_out()})" if self._left_out() else ""
        raise UserError(f"{self.folder} holds no class folders{others}; it must hold one folder of images per class")

    def check_complete(self) -> None:
        """Refuse folders that were probably meant as classes and give no image to train on.

        Raises:
            UserError: a folder is empty, or all of its images are of a kind that is not read.
        """
        if self.of_images_not_read:
            raise UserError(self._not_read())
        if self.empty:
            others = _nor(len(self.empty) - 1)
            raise UserError(
                f"the class folder {self.folder / self.empty[0]} holds no images{others};"
                " add some, or remove the folder"
            )

    def remarks(self) -> list[str]:
        """A line for what was left out, and one for each pair of names that look alike."""
        lines = [f"ignored in {self.folder}: {self._left_out()}"] if self._left_out() else []
        folders: dict[str, list[str]] = {}
        for name in self.folders():
            folders.setdefault(class_name(name), []).append(name)
        lines += [
            f"{self.folder} holds {len(same)} folders called {name}, in different forms of Unicode: they are one class"
            for name, same in folders.items()
            if len(same) > 1
        ]
        alike: dict[str, list[str]] = {}
        for name in folders:
            alike.setdefault(name.casefold(), []).append(name)
        lines += [
            f"{' and '.join(names)} differ only in case and are {len(names)} classes; if they are one, move their "
            "images into one folder"
            for names in alike.values()
            if len(names) > 1
        ]
        if len(folders) > 1 and all(not self.directly(name) and len(self.below(name)) > 1 for name in self.folders()):
            first = self.folders()[0]
            lines.append(
                f"all images lie in folders within the {len(folders)} classes, such as {first}/{self.below(first)[0]}; "
                "if those are the classes, give the folder that holds them"
            )
        return lines

    def _left_out(self) -> str:
        parts = []
        if self.loose_images:
            parts.append(f"{counted(self.loose_images, 'image')} beside the class folders ({some(self.loose)})")
        if self.unread:
            parts.append(f"files of other types: {self._endings()}")
        if self.without_images:
            parts.append(f"folders without images ({some(self.without_images)})")
        if self.of_runs:
            parts.append(f"files of runs ({some(self.of_runs)})")
        if self.junk:
            names = [f"{name} {count}" if count > 1 else name for name, count in self.junk.most_common()]
            parts.append(f"hidden and system files ({some(names, 5)})")
        if self.links:
            parts.append(f"broken or circular links ({some(self.links)})")
        return "; ".join(parts)

    def _endings(self) -> str:
        ordered = sorted(self.unread.items(), key=lambda item: (-item[1], item[0] == "", item[0]))
        shown = [f"{count:,} {ending or 'without ending'}" for ending, count in ordered]
        hint = f" (to read HEIC: {HEIF_INSTALL})" if HEIF_EXTENSIONS & self.unread.keys() else ""
        return some(shown, 5) + hint

    def _not_read(self) -> str:
        names = self.of_images_not_read
        others = _nor(len(names) - 1)
        way = "convert them to .jpg or .png"
        if HEIF_EXTENSIONS & self.unread.keys():
            way = f"install what reads HEIC ({HEIF_INSTALL}), or {way}"
        return (
            f"the class folder {self.folder / names[0]} holds no images of a supported format{others}, but "
            f"{self._endings().partition(' (to')[0]}; {way}"
        )

    def _level_above(self) -> str:
        """What to add where the folder is probably one class of those beside it."""
        above = self.folder.absolute().parent
        try:
            beside = [name for name in folders_in(above) if holds_images(above / name)]
        except UserError:
            return ""
        return (
            f"; if it is one class of {above}, give that folder: --data_url {quote(str(above))}"
            if len(beside) > 1
            else ""
        )


def scan(folder: Path, own: Collection[Path] = ()) -> Scan:
    """Look at every name in a folder of class folders, following links but never in a circle.

    Args:
        own: folders that a run writes into: they, and what leads to them alone, are no classes.

    Raises:
        UserError: a folder is missing, is none, or cannot be read.
    """
    found = Scan(folder)
    above = _itself_and_above(folder)
    for name, is_class in _top(folder):
        if _is_junk(name):
            found.junk[_shown(name)] += 1
        elif is_class and is_one_of(folder / name, above):
            found.links.append(name)
        elif is_class:
            _scan_class(found, name, own)
        elif is_image_ending(name):
            found.loose_images += 1
            found.loose = [*found.loose[:3], name] if len(found.loose) < 4 else found.loose
        elif not os.path.exists(folder / name):  # noqa: PTH110  # which never fails
            found.links.append(name)
    return found


def _top(folder: Path) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _may_be_folder(entry)) for entry in entries)
    except FileNotFoundError as error:
        raise UserError(f"the folder {folder} does not exist{neighbours(folder)}") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error


def _scan_class(found: Scan, name: str, own: Collection[Path]) -> None:
    images: list[str] = []
    unread: Counter[str] = Counter()
    here = (found.folder / name).resolve()
    is_run = any(place.is_relative_to(here) or here.is_relative_to(place) for place in own)
    for path in _files_below(found.folder / name, found.junk, own):
        last = path.rpartition("/")[2]
        if is_image_ending(last):
            images.append(path)
        else:
            unread[os.path.splitext(last)[1].lower()] += 1  # noqa: PTH122
        is_run = is_run or (path.count("/") < _RUN_LEVELS and _OF_A_RUN.fullmatch(last) is not None)
    if is_run and not any("/" not in path for path in images):
        found.of_runs.append(name)
        return
    if images or unread.keys() & IMAGES_NOT_READ:
        found.unread += unread
    if images:
        found.images[name] = sorted(images)
    elif unread.keys() & IMAGES_NOT_READ:
        found.of_images_not_read.append(name)
    elif unread:
        found.without_images.append(name)
    else:
        found.empty.append(name)


def _files_below(folder: Path, junk: "Counter[str]", own: Collection[Path] = ()) -> Iterator[str]:
    """Paths of files below `folder`, relative to it, without those of the folders `own`."""

    def entries(here: str) -> list[tuple[str, bool]]:
        found = []
        with os.scandir(here) as names:
            for entry in names:
                if _is_junk(entry.name):
                    junk[_shown(entry.name)] += 1
                else:
                    found.append((f"{here}/{entry.name}", _may_be_folder(entry)))
        return found

    # A link to a folder above would add the images of other classes to this one.
    without = _itself_and_above(folder.parent) | _above(folder) | identities(own)
    for path, error in walk(str(folder), entries, without):
        if error is not None:
            raise UserError(_closed(Path(path), error)) from error
        yield path[len(str(folder)) + 1 :]


def identities(folders: Iterable[Path]) -> set[Identity]:
    """What tells these folders from others, of those that can be reached."""
    found = set()
    for folder in folders:
        with suppress(OSError):
            found.add(identity_of(folder))
    return found


def is_one_of(folder: Path, others: Collection[Identity]) -> bool:
    """Whether `folder` is one of those that `identities` gave.

    Raises:
        UserError: it cannot be reached, so nobody can tell.
    """
    try:
        return identity_of(folder) in others
    except OSError as error:
        raise UserError(_closed(folder, error)) from error


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or may be one: a file of an image's name fails when it is read."""
    return is_folder(entry) or (not is_image_ending(entry.name) and is_unknown(entry))


def _above(folder: Path) -> set[Identity]:
    """The folders above `folder`, without links."""
    return identities(Path(os.path.realpath(folder)).parents)


def _itself_and_above(folder: Path) -> set[Identity]:
    return identities([folder]) | _above(folder)


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _shown(name: str) -> str:
    """What a hidden file is counted as: macOS leaves one beside each image."""
    return "._*" if name.startswith("._") else name


def folders_in(root: Path) -> list[str]:
    """The folders of `root` that may be classes or parts, sorted.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if not _is_junk(entry.name) and is_folder(entry))
    except OSError as error:
        raise UserError(f"{root} cannot be read as a folder ({error.strerror})") from error


def holds_images(folder: Path, *, deep: bool = False) -> bool:
    """Whether images lie in `folder` itself or, with `deep`, anywhere below it."""
    if deep:
        return any(is_image_ending(path.rpartition("/")[2]) for path in _files_below(folder, Counter()))
    try:
        with os.scandir(folder) as entries:
            return any(is_image_ending(e.name) and not _is_junk(e.name) and not is_folder(e) for e in entries)
    except OSError as error:
        raise UserError(_closed(folder, error)) from error


def _closed(folder: Path, error: OSError) -> str:
    name = str(folder)
    if len(name) > _LONGEST_SHOWN:  # of folders within folders: paths may have 4,096 bytes
        name = f"{name[:_LONGEST_SHOWN]}..."
    return f"{name} cannot be read ({error.strerror}); make it readable, or move it elsewhere"


def neighbours(folder: Path) -> str:
    """What to add to the sentence that `folder` does not exist: the folders beside it."""
    try:
        names = folders_in(folder.parent)
    except UserError:
        return f", nor does {folder.parent}" if not folder.parent.exists() else ""
    where = "the current folder" if folder.parent == Path() else folder.parent
    return f"; {where} holds {some(names, 5)}" if names else f"; {where} holds no folders"


def _nor(others: int) -> str:
    return f" (nor {'does 1' if others == 1 else f'do {others:,}'} more)" if others else ""


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, printable."""
    return ", ".join(map(printable, names[:most])) + (", ..." if len(names) > most else "")
