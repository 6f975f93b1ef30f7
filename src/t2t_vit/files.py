"""Files that appear whole or not at all, files of unknown origin opened with a limit, and the one reader of JSON."""

import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, BinaryIO, TypeVar

from t2t_vit.errors import OutputError, UserError
from t2t_vit.platforms import (
    BINARY,
    NOT_BLOCKING,
    NOT_FOLLOWING,
    RENAMES_OPEN_FILES,
    NoLocksError,
    is_anothers,
    lock,
    relative_path,
    replace,
    sync_folder,
    this_host,
)

Content = TypeVar("Content")

LONGEST_LINE = 2**20  # bytes; of a log that names the images of a batch
LONGEST_JSON = 8 * 2**20  # bytes of a file that a run writes; it holds the names of its classes
_LONGEST_LABEL = 200  # bytes
_LOCK = ".lock"
_SECONDS_TO_RENAME = 60.0  # where an open file cannot be renamed: from its last byte to its name
_SECONDS_UNLOCKED = 86_400.0  # a leftover of which no lock says that its process has ended must be this old
_TURNS = 20  # to make a file that nobody takes for a leftover; one or two do
_SECONDS_FOR_OTHERS = 10.0  # others' renames take milliseconds
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_OF_A_DISK = (*_NO_ROOM, errno.EROFS, errno.EIO)
_STREAM_FAILED = "iostream error"  # what C++ says of a write that failed, whatever the reason
_ARRAY_FAILED = re.compile(r"\d+ requested and \d+ written")  # what NumPy says of one, without a number
_LEAST_ROOM = 2**16  # bytes; a disk with less is full


@contextmanager
def atomic_write(path: Path, mode: str = "wb", *, size: int = 0) -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing; it takes the place of `path` only when the block ends well.

    The new content is flushed to the disk before the rename, so a crash or a full disk leaves the old file, whose
    permissions the new one gets. What killed processes left of this file is removed first. `size`, in bytes, where it
    is known, is reported with what is free when the disk is full.

    Raises:
        OutputError: the folder cannot be written, the disk is full, or `path` is a link, which would be replaced.
    """
    path = Path(path)
    _refuse_link(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        beside, descriptor = _new_part(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); choose a folder that can be written"
        ) from error
    # A name that is no UTF-8 is written with an escape for each byte, as \\udce9. Lines end with \n everywhere.
    encoding, errors, newline = (None, None, None) if "b" in mode else ("utf-8", "backslashreplace", "")
    try:
        with failing_on_a_full_disk(path, beside, size):
            with os.fdopen(descriptor, mode, encoding=encoding, errors=errors, newline=newline) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if RENAMES_OPEN_FILES:  # the lock holds until the file has its name
                    _take_place(beside, path)
            if not RENAMES_OPEN_FILES:
                _take_place(beside, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def working_folder(
    parent: Path, purpose: str, *, instead: str = "choose a folder that can be written"
) -> Iterator[Path]:
    """A hidden folder in `parent` to make files in, which goes with all that is left in it.

    This process holds a lock on it, so the next call with this `purpose` knows, and removes, what killed ones left.
    `place_together` gives the files their names. Where that could not put back what it replaced, the folder stays.

    Raises:
        OutputError: it cannot be made; the sentence ends with what to do `instead`.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_left_folders(parent, purpose)
        folder, held = _new_folder(parent, purpose)
    except OSError as error:
        raise OutputError(f"{parent}: cannot be written ({error.strerror}); {instead}") from error
    is_needed = False
    try:
        yield folder
    except _NotRestoredError:
        is_needed = True
        raise
    finally:
        if not RENAMES_OPEN_FILES:
            os.close(held)
        if is_needed:
            with suppress(OSError):
                (folder / _LOCK).unlink()  # a folder without one is no leftover: the next start leaves it alone
        else:
            _remove_folder(folder)
        if RENAMES_OPEN_FILES:  # until here no other process takes it for a leftover
            os.close(held)
            with suppress(OSError):  # a network disk keeps a name of a file that is open, and so the folder
                folder.rmdir()


def files_made_in(folder: Path) -> list[Path]:
    """What lies in a `working_folder`, sorted."""
    return sorted(path for path in folder.iterdir() if path.name != _LOCK)


def place_together(folder: Path, paths: Sequence[Path]) -> None:
    """Move the files of a `working_folder` to `paths`, which are called the same: all, or none where an error comes.

    They lie in one folder. They are flushed first, and take their places in this order, which lasts no longer than
    some renames. A process that is killed in between leaves new files and old ones, so files that belong together
    have to say so of each other. Of several processes one at a time does this in a folder that can be locked.

    Raises:
        OutputError: a path is a link or a folder, or cannot be written. Where a file that was replaced could not be
            put back after an error, the sentence says where it lies, and the working folder stays.
    """
    for path in paths:
        _refuse_link(path)
        if path.is_dir():
            raise OutputError(f"{path}: is a folder, but a file must be written there")
    with failing_on_a_full_disk(paths[-1], folder):
        for path in paths:
            with (folder / path.name).open("r+b") as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())
        with _alone_in(paths[-1].parent, len(paths) > 1):
            # All second names come first: where a copy finds no room, no file has been replaced yet.
            befores: list[Path | None] = [None]
            if len(paths) > 1:
                befores = [_second_name(path, folder / f"{number}.before") for number, path in enumerate(paths)]
            try:
                for path in paths:
                    _take_place(folder / path.name, path)
            except BaseException as error:
                if len(paths) > 1:
                    _restore_all(folder, paths, befores, error)
                raise
        sync_folder(paths[-1].parent)


@contextmanager
def failing_on_a_full_disk(path: Path, made: Path, size: int = 0, *, kept: str = "") -> Iterator[None]:
    """What cannot be written in the block is an OutputError, in one sentence about `path`; other errors stay.

    Libraries write, too, and each has its own error for a full disk. So any error counts where one that only disks have
    caused it, a RuntimeError also where the disk has no room left. Of all other errors of the system only those count
    that name `path` or what is `made`: a library that lacks a program, or another library, is no file of ours.

    Args:
        made: the file or the folder that is written meanwhile, on the same disk.
        size: bytes that are needed, where that is known.
        kept: what the sentence ends with; otherwise whether the previous file is kept.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        failed = _failed_write(error, (made, path)) if isinstance(error, OSError | RuntimeError) else None
        lacks_room = _lacks_room(made, size)
        if failed is None and not _says_less(error, lacks_room):
            raise
        reason = (failed and failed.strerror) or (os.strerror(errno.ENOSPC) if lacks_room else reason_of(error))
        if lacks_room or (failed and failed.errno in _NO_ROOM):
            reason += f": {_room(made, size)}"
        kept = kept or ("the previous file is kept" if path.exists() else "nothing was written")
        raise OutputError(f"{path}: could not be written ({reason}); {kept}") from error


def lead_to(link: Path, target: Path) -> None:
    """Make `link` another name of the file `target`, in one moment: a relative symlink.

    Where there are none (Windows without the right, some file systems) it is a hard link, else a copy.

    Raises:
        OutputError: the folder cannot be written.
    """
    relative = relative_path(target, link.parent)
    beside = link.with_name(_part_name(link.name))
    try:
        try:
            beside.symlink_to(relative)
        except (OSError, NotImplementedError):
            _link_or_copy(target, beside)
        replace(beside, link)
        beside.unlink(missing_ok=True)  # renaming does nothing where both are the same file already
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"{link}: cannot be linked to {relative} ({error.strerror})") from error


def led_to(path: Path) -> Path:
    """The file that the link `path` leads to; `path` itself where it is no link."""
    try:
        return path.parent / path.readlink()
    except OSError:
        return path


def through_link(path: Path, read: Callable[[], Content]) -> Content:
    """What `read` makes of the file `path`. A living run may meanwhile lead `path` elsewhere and remove the old file:
    then `read` is called again.
    """
    while True:
        before = led_to(path)
        try:
            return read()
        except (UserError, OSError):
            if led_to(path) == before:
                raise


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


def read_json(path: str | Path, most: int = LONGEST_JSON) -> Any:
    """The value in a JSON file of up to `most` bytes that somebody else may have written.

    Raises:
        OSError: as of `read_at_most`.
        ValueError: as of `parse_json`.
    """
    return parse_json(read_at_most(path, most))


def write_json(path: Path, content: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        OutputError: as of `atomic_write`.
    """
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=indent)
        file.write("\n")


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


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Delete the halves of files that killed processes left in `folder`; those that are being written stay.

    A lock may not be seen from other machines, and some file systems have none: without one, a half stays for a day.

    name: of the file whose halves they are; empty: of any file.
    """
    label = re.escape(_label(name)) if name else ".+"
    part = re.compile(rf"\.{label}\.t2t-(\w+)-[0-9a-f]{{8}}\.part")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if found := part.fullmatch(entry.name):
                _remove_left_part(Path(entry.path), found[1] == this_host())


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


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise OutputError(f"{path}: is a link to {path.readlink()}; give that file itself, or remove the link")


def _take_place(beside: Path, path: Path) -> None:
    if path.exists():
        beside.chmod(path.stat().st_mode & 0o777)
    replace(beside, path)


# ----- what a process that is killed leaves ----- #


def _label(name: str) -> str:
    """What the hidden file beside `name` begins with; a name may have 255 bytes."""
    return name.encode("utf-8", "surrogateescape")[:_LONGEST_LABEL].decode("utf-8", "ignore")


def _part_name(name: str) -> str:
    """Of a hidden file beside `name`: no user's own file is called like that, and it says which machine's it is."""
    return f".{_label(name)}.t2t-{this_host()}-{token_hex(4)}.part"


def _new_part(path: Path) -> tuple[Path, int]:
    """A file beside `path` and its descriptor, locked, so that nobody takes it for what a killed process left."""
    turn = 0
    while True:
        turn += 1
        beside = path.with_name(_part_name(path.name))
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        # Nobody is beaten so often: then the file system is a strange one, and the file does without a lock.
        if _is_kept_from_others(descriptor, beside) or turn == _TURNS:
            return beside, descriptor
        os.close(descriptor)
        with suppress(OSError):
            beside.unlink()


def _is_kept_from_others(descriptor: int, path: Path) -> bool:
    """Lock a file that was made a moment ago; False where another process was faster and removes, or removed, it."""
    try:
        lock(descriptor)
    except BlockingIOError:
        return False
    except (NoLocksError, OSError):  # then nobody can lock it, and nobody removes it for a day
        return True
    if not RENAMES_OPEN_FILES:  # nor are they removed
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _has_ended(descriptor: int, is_ours: bool, changed: float) -> bool:
    """Whether the process that created and locked an open file has ended.

    Args:
        is_ours: it is this machine's process. The lock of another machine may not be visible here.
        changed: when it was written to; that is asked where a lock says nothing.

    Raises:
        BlockingIOError: it is still running.
    """
    try:
        lock(descriptor)
    except NoLocksError:
        is_ours = False
    return is_ours or _is_old(changed)


def _is_old(changed: float) -> bool:
    return time.time() - changed > _SECONDS_UNLOCKED


def _remove_left_part(path: Path, is_ours: bool) -> None:
    with suppress(OSError):
        state = path.lstat()
        if stat.S_ISLNK(state.st_mode):  # one that `lead_to` makes
            if is_ours or _is_old(state.st_mtime):
                path.unlink()
            return
        descriptor = os.open(path, os.O_RDWR | NOT_FOLLOWING | NOT_BLOCKING | BINARY)
        try:
            has_ended = _has_ended(descriptor, is_ours, state.st_mtime)
            if has_ended and RENAMES_OPEN_FILES:
                path.unlink()
        finally:
            os.close(descriptor)
        # It may have been closed a moment ago, to be renamed.
        if has_ended and not RENAMES_OPEN_FILES and time.time() - path.stat().st_mtime > _SECONDS_TO_RENAME:
            path.unlink()


def _new_folder(parent: Path, purpose: str) -> tuple[Path, int]:
    """A new folder, and the descriptor of the file in it that is locked."""
    turn = 0
    while True:
        turn += 1
        folder = Path(tempfile.mkdtemp(prefix=f"{_working_name(purpose)}{this_host()}-", dir=parent))
        try:
            held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o600)
        except OSError as error:
            with suppress(OSError):
                folder.rmdir()
            # Without an error of its own: another process took the empty folder for a leftover.
            if not isinstance(error, FileNotFoundError) or turn == _TURNS:
                raise
            continue
        if _is_kept_from_others(held, folder / _LOCK) or turn == _TURNS:
            return folder, held
        os.close(held)
        _remove_folder(folder)


def _working_name(purpose: str) -> str:
    return f".t2t_vit-{purpose}-"


def _remove_left_folders(parent: Path, purpose: str) -> None:
    """The working folders of this purpose whose processes have ended."""
    for left in parent.glob(f"{_working_name(purpose)}*"):
        with suppress(OSError):
            state = left.lstat()
            if not stat.S_ISDIR(state.st_mode) or is_anothers(state):
                continue
            is_ours = left.name.startswith(f"{_working_name(purpose)}{this_host()}-")
            changed = max(path.lstat().st_mtime for path in (left, *left.rglob("*")))
            try:
                descriptor = os.open(left / _LOCK, os.O_RDWR | NOT_FOLLOWING | BINARY)
            except FileNotFoundError:
                if is_ours or _is_old(changed):
                    left.rmdir()  # killed before it had a lock: then it is empty
                continue
            try:
                if not _has_ended(descriptor, is_ours, changed):
                    continue
                _remove_folder(left)
            finally:
                os.close(descriptor)
            _remove_folder(left)  # Windows and network disks keep a file that is open


def _remove_folder(folder: Path) -> None:
    """Remove a working folder, its lock when nothing else is left: without it nobody would know it for a leftover."""
    with suppress(OSError):
        for path in files_made_in(folder):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()
        if not files_made_in(folder):
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()


@contextmanager
def _alone_in(folder: Path, wanted: bool) -> Iterator[None]:
    """Of the processes that place files in `folder` this one alone, where folders can be locked.

    They cannot on Windows and on some network disks (NFS). There two may place their files at once, and files of both
    may come to lie side by side, as after a kill: files that belong together say so of each other. A file to lock
    instead would lie in the user's folder, and stay there after a kill.
    """
    descriptor = None
    try:
        if wanted:
            with suppress(OSError, NoLocksError):
                descriptor = os.open(folder, os.O_RDONLY)
                _wait_for(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    end = time.monotonic() + _SECONDS_FOR_OTHERS
    while True:
        try:
            return lock(descriptor)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def _second_name(path: Path, name: Path) -> Path | None:
    """Another name for the file `path`, under which it can be restored; None where there is no file."""
    if not path.exists():
        return None
    _link_or_copy(path, name)
    return name


def _link_or_copy(path: Path, name: Path) -> None:
    try:
        name.hardlink_to(path)
    except (OSError, NotImplementedError):  # some file systems have no second names
        shutil.copy2(path, name)


class _NotRestoredError(OutputError):
    """A file could not be put back; it lies in the working folder, which must stay."""


def _restore_all(folder: Path, paths: Sequence[Path], befores: Sequence[Path | None], error: BaseException) -> None:
    """Undo what `place_together` did before `error`.

    Raises:
        _NotRestoredError: some file could not be put back.
    """
    failures = []
    for path, before in reversed(list(zip(paths, befores, strict=True))):
        if (folder / path.name).exists():  # it has not taken its place
            continue
        if failure := _restore(path, before):
            failures.append(failure)
    if failures:
        reason = reason_of(error) if isinstance(error, Exception) else type(error).__name__
        raise _NotRestoredError(
            f"{paths[-1]}: could not be written ({reason or type(error).__name__}); {', and '.join(failures)}"
        ) from error


def _restore(path: Path, before: Path | None) -> str | None:
    """Make `path` what it was before. Where that fails, a phrase says so: the others continue."""
    try:
        if before is not None:
            replace(before, path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        if before is None:
            return f"{path.name} is new there and could not be removed ({reason_of(error)})"
        return f"the previous {path.name} could not be put back ({reason_of(error)}): it lies at {before}"
    return None


# ----- full disks ----- #


def _failed_write(error: BaseException, places: Sequence[Path]) -> OSError | None:
    """The disk's error that led to `error`, the one that says there is no room before all others.

    `error` itself counts, too, where it names a file in `places`.
    """
    chain: list[OSError] = []
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, OSError) and each.errno in _OF_A_DISK:
            chain.append(each)
        each = each.__cause__ or each.__context__
    if isinstance(error, OSError) and any(_lies_in(name, places) for name in (error.filename, error.filename2)):
        chain.append(error)
    return next((one for one in chain if one.errno in _NO_ROOM), chain[0] if chain else None)


def _lies_in(name: Any, places: Sequence[Path]) -> bool:
    """Whether the name in an OSError, if it is one, is that of a place or of what is in it."""
    try:
        whole = Path(os.fsdecode(name)).absolute()
    except TypeError:  # None, or a descriptor
        return False
    return any(whole.is_relative_to(place.absolute()) for place in places)


def _says_less(error: Exception, lacks_room: bool) -> bool:
    """Whether a library's error that has no cause is one of writing, as far as can be told."""
    if isinstance(error, RuntimeError):
        return lacks_room or _STREAM_FAILED in str(error)
    return isinstance(error, OSError) and _ARRAY_FAILED.search(str(error)) is not None


def _written(made: Path) -> int:
    files = made.rglob("*") if made.is_dir() else (made,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _free(made: Path) -> int:
    """Bytes of the disk's that are free; without end where the folder has gone or its file system does not say."""
    try:
        disk = shutil.disk_usage(made.parent)
    except OSError:
        return sys.maxsize
    return disk.free if disk.total > 0 else sys.maxsize  # some network disks have no size


def _lacks_room(made: Path, size: int) -> bool:
    """Whether the disk is full, or has no room for `size` bytes in all."""
    return _free(made) < _LEAST_ROOM or _free(made) + _written(made) < size


def _room(made: Path, size: int) -> str:
    """What a file takes, or more than what was written of it; and what the disk has, if that is the reason."""
    written = _written(made)
    takes = f"it takes {_megabytes(size)}" if size > written else f"it takes more than {_megabytes(written)}"
    return f"{takes}, {_megabytes(_free(made) + written)} are free" if _lacks_room(made, size) else takes


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
