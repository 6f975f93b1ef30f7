"""What the user points at (files, folders, archives, lists of paths) -> its images, one by one, never all in memory."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from t2t_vit.data.walk import is_folder, is_unknown, walk
from t2t_vit.errors import UserError
from t2t_vit.inference.archives import is_archive, members
from t2t_vit.inference.item import Item, is_image_name

STANDARD_INPUT = "-"
_BLOCK = 2**16
_LONGEST = 2**20  # bytes of an entry of a list


def find_images(words: Sequence[str], *, recursive: bool = False) -> Iterator[Item]:
    """The images that `words` name, word by word; `Item.path` is the word as it was given joined with the file's name.

    A file counts whatever its ending. Of a folder, the files directly in it count that end in one of the decoder's
    endings in any case, sorted; `recursive` adds all folders below, links followed but never in a circle. A file that
    ends in .zip, .tar, .tar.gz or .tgz gives its members. What begins with a dot does not count.

    Raises:
        UserError: a word names nothing, at once; or the only word holds no image, when the first one is asked for.
            Of several words one without images becomes an item with a reason.
    """
    for word in words:
        _check(word)
    return _chained(tuple(words), recursive)


def _check(word: str) -> None:
    """Report before the work begins what cannot be read."""
    try:
        if not word or not os.path.lexists(word):  # a Path would change the user's spelling
            raise UserError(f"DATA '{word}': no such file or folder; give an image or a folder of images")
        Path(word).stat()
    except FileNotFoundError as error:
        raise UserError(f"DATA '{word}': is a broken link; give an image or a folder of images") from error
    except OSError as error:
        raise UserError(f"DATA '{word}': cannot be read ({error.strerror})") from error


def _chained(words: tuple[str, ...], recursive: bool) -> Iterator[Item]:
    for word in words:
        try:
            yield from _images(word, recursive)
        except _NothingFoundError as error:
            if len(words) == 1:
                raise UserError(f"DATA '{word}': {error}") from error
            yield Item(word, reason=str(error))


def _images(word: str, recursive: bool) -> Iterator[Item]:
    if not Path(word).is_dir():
        if is_archive(word):
            yield from _members(word)
        else:
            yield Item(word)
    elif recursive:
        yield from _below(word)
    else:
        try:
            found = [entry for entry in os.scandir(word) if is_image_name(entry.name) and not is_folder(entry)]
            names = sorted(entry.name for entry in found)
        except OSError as error:
            raise _NothingFoundError(f"cannot be read ({error.strerror})") from error
        if not names:
            raise _NothingFoundError(_why_empty(Path(word)))
        for name in names:
            yield Item(os.path.join(word, name))  # noqa: PTH118


def _members(word: str) -> Iterator[Item]:
    count = 0
    for count, item in enumerate(members(word), start=1):
        if count == 1 and item.path == word:  # it broke before its first image
            raise _NothingFoundError(item.reason)
        yield item
    if count == 0:
        raise _NothingFoundError("no file in the archive ends in .png, .jpg, .jpeg or another image ending")


def _below(top: str) -> Iterator[Item]:
    """All images below `top` in the order that sorting their whole paths would give."""
    nothing = True
    for path, error in walk(top, _folder_entries):
        nothing = False
        yield Item(path, reason="" if error is None else f"the folder cannot be read ({error.strerror})")
    if nothing:
        raise _NothingFoundError(
            "no file in the folder or its subfolders ends in .png, .jpg, .jpeg or another image ending"
        )


def _folder_entries(folder: str) -> list[tuple[str, bool]]:
    """Paths of images and folders in `folder`, and which are folders, sorted as their contents would be: `a.png`
    stands before `a/b.png`."""
    with os.scandir(folder) as entries:
        found = [(os.path.join(folder, entry.name), _leads_below(entry)) for entry in entries if entry.name[0] != "."]  # noqa: PTH118
    kept = [(path, is_dir) for path, is_dir in found if is_dir or is_image_name(path)]
    return sorted(kept, key=lambda entry: f"{entry[0]}/" if entry[1] else entry[0])


def _leads_below(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or may be one, which then says why it cannot be read, as an image does."""
    return is_folder(entry) or (not is_image_name(entry.name) and is_unknown(entry))


def _why_empty(folder: Path) -> str:
    if not any(folder.iterdir()):
        return "the folder is empty"
    endings = ".png, .jpg, .jpeg or another image ending"
    if any(entry.is_dir() for entry in folder.iterdir()):
        return (
            f"no file in the folder itself ends in {endings}; its subfolders are not searched,"
            " so give one of them, or add --recursive"
        )
    return f"no file in it ends in {endings}"


class _NothingFoundError(Exception):
    """Why a word gives no image."""


def listed_images(source: str, *, null: bool = False) -> Iterator[Item]:
    """An item for each path in a list, in its order, read as it comes; empty entries do not count.

    Args:
        source: a file, or "-" for standard input.
        null: NUL ends a path, so that one may hold a line break; otherwise LF or CRLF does.

    Raises:
        UserError: the file cannot be opened, at once; it is empty, or no list, when it is read.
    """
    try:
        # Unbuffered: what a slow writer has written is answered at once, and a reader that waits can be abandoned.
        file = os.dup(sys.stdin.fileno()) if source == STANDARD_INPUT else os.open(source, os.O_RDONLY)
        if source != STANDARD_INPUT and Path(source).is_dir():
            raise IsADirectoryError(0, "it is a folder")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a file"
        raise UserError(f"list '{source}': cannot be read ({reason}); give a file of paths, or - for input") from error
    return _listed_items(file, "standard input" if source == STANDARD_INPUT else f"list '{source}'", null)


def _listed_items(file: int, where: str, null: bool) -> Iterator[Item]:
    found = False
    for entry in _list_entries(file, where, b"\0" if null else b"\n"):
        path = entry if null else entry.removesuffix(b"\r")
        if b"\0" in path:
            raise UserError(f"{where}: holds NUL characters; if they separate its paths, add --null")
        if path:
            found = True
            yield Item(os.fsdecode(path))
    if not found:
        raise UserError(f"{where}: contains no image paths; write one path per line")


def _list_entries(file: int, where: str, separator: bytes) -> Iterator[bytes]:
    rest, first = b"", True
    try:
        while block := os.read(file, _BLOCK):
            block = rest + (block.removeprefix(b"\xef\xbb\xbf") if first else block)
            *whole, rest = block.split(separator)
            first = False
            yield from whole
            if len(rest) > _LONGEST:
                raise UserError(f"{where}: holds an entry of more than {_LONGEST:,} bytes; write one path per line")
        yield rest
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from error
    finally:
        os.close(file)
