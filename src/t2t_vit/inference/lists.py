"""Lists of paths: a file or standard input, read as it comes."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.inference.item import Item

STANDARD_INPUT = "-"
_BLOCK = 2**16
_LONGEST = 2**20


def listed_images(source: str, *, null: bool = False) -> Iterator[Item]:
    """An item for each path in a list, in its order; empty entries do not count.

    Args:
        source: a file, or "-" for standard input.
        null: NUL ends a path, so that one may hold a line break; otherwise LF or CRLF does.

    Raises:
        UserError: the file cannot be opened, at once; it is empty, or no list, when it is read.
    """
    try:
        # Unbuffered: what a slow writer has written is answered, and a reader that waits can be left behind.
        file = os.dup(sys.stdin.fileno()) if source == STANDARD_INPUT else os.open(source, os.O_RDONLY)
        if source != STANDARD_INPUT and Path(source).is_dir():
            raise IsADirectoryError(0, "it is a folder")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no file"
        raise UserError(f"list '{source}': cannot be read ({reason}); name a file of paths, or - for input") from error
    return _items(file, "standard input" if source == STANDARD_INPUT else f"list '{source}'", null)


def _items(file: int, where: str, null: bool) -> Iterator[Item]:
    found = False
    for entry in _entries(file, where, b"\0" if null else b"\n"):
        path = entry if null else entry.removesuffix(b"\r")
        if b"\0" in path:
            raise UserError(f"{where}: holds NUL characters; if they separate its paths, add --null")
        if path:
            found = True
            yield Item(os.fsdecode(path))
    if not found:
        raise UserError(f"{where}: names no images; it must hold a path a line")


def _entries(file: int, where: str, separator: bytes) -> Iterator[bytes]:
    rest, first = b"", True
    try:
        while block := os.read(file, _BLOCK):
            block = rest + (block.removeprefix(b"\xef\xbb\xbf") if first else block)
            *whole, rest = block.split(separator)
            first = False
            yield from whole
            if len(rest) > _LONGEST:
                raise UserError(f"{where}: holds an entry of more than {_LONGEST:,} bytes; it must hold a path a line")
        yield rest
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from error
    finally:
        os.close(file)
