"""Files that appear whole or not at all, files of unknown origin opened with a limit, and the one reader of JSON."""

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, BinaryIO

from t2t_vit.errors import OutputError
from t2t_vit.platforms import BINARY, NOT_BLOCKING, NOT_FOLLOWING, relative_path, replace, sync_folder

LONGEST_LINE = 2**20  # bytes; of a log that names the images of a batch
LONGEST_JSON = 8 * 2**20  # bytes of a file that a run writes; it holds the names of its classes


@contextmanager
def atomic_write(path: Path, mode: str = "wb", *, size: int = 0) -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing; it takes the place of `path` only when the block ends well.

    The new content is flushed to the disk before the rename, so a crash or a full disk leaves the old file, whose
    permissions the new one gets. `size`, in bytes, where it is known, is reported with what is free when the disk is
    full.

    Raises:
        OutputError: the folder cannot be written, the disk is full, or `path` is a link, which would be replaced.
    """
    path = Path(path)
    if path.is_symlink():
        raise OutputError(f"{path}: is a link to {path.readlink()}; give that file itself, or remove the link")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name[:80]}.{token_hex(4)}.part")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); choose a folder that can be written"
        ) from error
    # A name that is no UTF-8 is written with an escape for each byte, as \\udce9. Lines end with \n everywhere.
    encoding, errors, newline = (None, None, None) if "b" in mode else ("utf-8", "backslashreplace", "")
    try:
        with os.fdopen(descriptor, mode, encoding=encoding, errors=errors, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        replace(beside, path)
        sync_folder(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            room = _room(path.parent, size) if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise OutputError(
                f"{path}: could not be written ({error.strerror}{room}); the previous file is kept"
            ) from error
        raise


def lead_to(link: Path, target: Path) -> None:
    """Make `link` another name of the file `target`, in one moment: a relative symlink.

    Where there are none (Windows without the right, some file systems) it is a hard link, else a copy.

    Raises:
        OutputError: the folder cannot be written.
    """
    relative = relative_path(target, link.parent)
    beside = link.with_name(f".{link.name}.{token_hex(4)}.part")
    try:
        try:
            beside.symlink_to(relative)
        except (OSError, NotImplementedError):
            try:
                beside.hardlink_to(target)
            except (OSError, NotImplementedError):
                shutil.copyfile(target, beside)
        replace(beside, link)
        beside.unlink(missing_ok=True)  # renaming does nothing where both are the same file already
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"{link}: cannot be linked to {relative} ({error.strerror})") from error


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading. Opening a pipe could wait for ever, and a device may have no end.

    Raises:
        OSError: there is no such file, it may not be read, or it is no regular file; `strerror` says which.
    """
    descriptor = os.open(path, os.O_RDONLY | NOT_BLOCKING | BINARY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def open_to_append(path: str | Path, *, errors: str = "strict", buffering: int = -1) -> IO[str]:
    """Open a text file to add lines, which is made where it is missing. A link is not followed: in a folder that
    somebody handed over it could lead to any file.

    Raises:
        OSError: it cannot be written, or is a link or no regular file.
    """

    def opened(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | NOT_FOLLOWING | NOT_BLOCKING, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file", name)
        return descriptor

    return open(path, "a", buffering, encoding="utf-8", errors=errors, newline="", opener=opened)


def read_at_most(path: str | Path, most: int) -> bytes:
    """The content of a file of up to `most` bytes.

    Raises:
        OSError: as of `open_regular`, or it is larger.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def lines_of(path: str | Path) -> Iterator[str]:
    """The lines of a text file, each with its end, one at a time: a file of gigabytes takes no memory.

    Raises:
        OSError: as of `open_regular`, or a line is longer than `LONGEST_LINE`.
    """
    with open_regular(path) as file:
        while line := file.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                raise OSError(errno.EFBIG, f"it has a line of more than {LONGEST_LINE:,} bytes", str(path))
            yield line.decode("utf-8", "replace")


def reason_of(error: Exception) -> str:
    """What an error says, without the number and the path that the system's have."""
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text that somebody else may have written.

    Raises:
        ValueError: it is no JSON, or nested without end.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def user_cache() -> Path | None:
    """t2t_vit in $XDG_CACHE_HOME, else ~/.cache/t2t_vit; None where the user has no home, as in some containers."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2t_vit"
    except RuntimeError:  # neither $HOME nor an entry in the list of users
        return None


def chosen_cache() -> Path | None:
    """$T2T_VIT_CACHE, else the user's cache, where there is one."""
    own = os.environ.get("T2T_VIT_CACHE")
    return Path(own) if own else user_cache()


def remove_leftovers(folder: Path) -> None:
    """Delete the halves of files that `atomic_write` left in `folder` when its process was killed."""
    for beside in folder.glob(".*.part"):
        with suppress(OSError):
            beside.unlink()


def check_folder(folder: Path, key: str) -> None:
    """Refuse a folder in which no file can be made, whether it is there yet or not; leaves nothing behind.

    Raises:
        OutputError: no file can be made in it, or in the nearest folder above it that exists; `key` named it.
    """
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OutputError(
            f"{key} {folder}: cannot be written ({error.strerror}); choose a folder that can be written"
        ) from error


def _room(folder: Path, size: int) -> str:
    """What a file takes, and what its disk has."""
    free = shutil.disk_usage(folder).free
    return f": it takes {size / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free" if size > free else ""
