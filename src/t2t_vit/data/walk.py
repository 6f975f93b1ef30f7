"""The files of a folder and of all folders below it, however deep: links are followed, but never in a circle."""

import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

Identity = tuple[int, int, str]  # of a folder, by whatever link or junction it is reached
# What the system says of a link that leads nowhere or in a circle; EINVAL stands for that on Windows.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)


class Found(NamedTuple):
    """A file; or a folder that cannot be read, and why."""

    path: str
    error: OSError | None = None


def walk(
    top: str, entries: Callable[[str], Sequence[tuple[str, bool]]], without: Collection[Identity] = ()
) -> Iterator[Found]:
    """The files below `top`, depth first; one folder's names are in memory for each level.

    A folder that is one of those on the way to it is passed by: a link, a junction of Windows or a mount leads back.

    Args:
        entries: the paths in a folder, and which of them are folders, in the order in which they are wanted.
        without: folders that are passed by as well.
    """
    # One set for all folders on the way: a copy for each would grow with the square of the depth.
    above = set(without)
    pending: list[tuple[Iterator[tuple[str, bool]], Identity | None]] = [(iter([(top, True)]), None)]
    while pending:
        names, here = pending[-1]
        path, is_folder = next(names, ("", False))
        if not path:
            pending.pop()
            if here is not None:
                above.discard(here)
        elif not is_folder:
            yield Found(path)
        else:
            try:
                below = identity_of(path)
                if below not in above:
                    pending.append((iter(entries(path)), below))
                    above.add(below)
            except OSError as error:
                yield Found(path, error)


def identity_of(folder: str | Path) -> Identity:
    """What two paths of one folder have in common.

    Raises:
        OSError: there is no such folder, or it cannot be reached.
    """
    state = os.stat(folder)  # noqa: PTH116  # a million of them
    if state.st_ino:
        return state.st_dev, state.st_ino, ""
    return 0, 0, os.path.realpath(folder)  # some network disks number nothing


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; False for a link that leads to itself, or where nobody may look."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_unknown(entry: os.DirEntry[str]) -> bool:
    """Whether nobody can tell what an entry is: a link into a closed folder, or to a disk that does not answer.

    Taken for a folder it is named with the reason; taken for a file all images below it would be missed in silence.
    """
    try:
        entry.is_dir()
    except OSError as error:
        return error.errno not in _NOWHERE
    return False
