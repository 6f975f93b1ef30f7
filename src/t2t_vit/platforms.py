"""What a platform has: signals, locks, cores, memory, child processes and files. Every other module asks here.

A thing is looked for where it is needed, not concluded from the platform's name: a container or an old kernel may lack
what Linux has. Where a thing is missing, a function says so in what it returns, and its docstring names the platform.
Importing this module costs nothing: what only some platforms have is imported by the function that uses it.
"""

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

# What asks a program to stop, from a terminal, a scheduler or a container's end. Windows has SIGINT, SIGTERM and
# SIGBREAK (Ctrl-Break) of these.
_STOPPING = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP", "SIGBREAK")
STOPPING = tuple(signal.Signals[name] for name in _STOPPING if hasattr(signal, name))
# What a program that was started in the background, or by nohup, is not to hear.
IGNORABLE = tuple(signal.Signals[name] for name in ("SIGINT", "SIGHUP") if hasattr(signal, name))

_NO_LOCKS = {getattr(errno, name, None) for name in ("ENOLCK", "ENOSYS", "EINVAL", "ENOTSUP", "EOPNOTSUPP")}
_LOCKED_BYTE = 2**30  # Windows forbids others to read what is locked: a byte that no file of ours reaches
_NO_SUCH_FUNCTION = (AttributeError, OSError, TypeError)  # in the C library; Windows does not even open it by None
_SIGKILL = 9
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
_STATM = Path("/proc/self/statm")
_MAPS = Path("/proc/self/maps")
SECONDS_OPEN = 2.0  # how long a file that another program has open is waited for (Windows)


class NoLocksError(Exception):
    """The platform, or the file's file system, has no locks; the message says which."""


# ----- signals ----- #


def signal_name(number: int) -> str:
    """`SIGTERM` for 15; `signal 99` for a number that this platform has no name for."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def stopping_signals_blocked() -> Iterator[None]:
    """Within, no signal that asks to stop reaches this thread, and none ever reaches processes that are started here.

    Nothing is done on Windows, which has no masks; see `AS_A_GROUP_OF_ITS_OWN`.
    """
    before = block_stopping_signals()
    try:
        yield
    finally:
        if sys.platform != "win32" and hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def block_stopping_signals() -> set[Any]:
    """From here on no signal that asks to stop reaches this thread (not on Windows, where only the main one gets any).

    Returns:
        The signals that were blocked before.
    """
    if sys.platform != "win32" and hasattr(signal, "pthread_sigmask"):
        return set(signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING))
    return set()


# ----- locks ----- #


def lock(descriptor: int) -> None:
    """Lock an open file, until its descriptor is closed or this process ends in whatever way.

    Raises:
        BlockingIOError: another process has it.
        NoLocksError: there are none here.
        OSError: anything else.
    """
    try:
        _lock(descriptor)
    except BlockingIOError:
        raise
    except ImportError:
        raise NoLocksError("this platform has none") from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocksError(f"its file system has none ({error.strerror})") from error
        raise


def _lock(descriptor: int) -> None:
    try:
        fcntl = import_module("fcntl")
    except ImportError:
        _lock_on_windows(import_module("msvcrt"), descriptor)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_on_windows(msvcrt: Any, descriptor: int) -> None:
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EDEADLK):
            raise BlockingIOError(error.errno, error.strerror) from error
        raise
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)


# ----- cores and memory ----- #


def usable_cores() -> int:
    """How many cores this process may run on; on macOS and Windows, how many the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident_memory() -> int | None:
    """The most bytes of RAM that this process has taken so far; None where nobody says."""
    try:
        resource = import_module("resource")
    except ImportError:
        counters = _ProcessMemory.of_this_process()
        return counters.peak_working_set if counters else None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory() -> int | None:
    """Bytes of this process that lie in RAM now (Linux and Windows); None where nobody says."""
    pages = _pages()
    if pages is not None:
        return pages[1] * _page_size()
    counters = _ProcessMemory.of_this_process()
    return counters.working_set if counters else None


def machine_memory() -> int:
    """Bytes of RAM that the machine has; 0 where nobody says."""
    if hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    state = _MachineMemory.of_this_machine()
    return state.total if state else 0


def free_machine_memory() -> int | None:
    """Bytes of RAM that are free on Windows; None elsewhere, where /proc says it (Linux) or nobody (macOS)."""
    state = _MachineMemory.of_this_machine()
    return state.available if state else None


def address_space_left() -> int | None:
    """Bytes that this process may still map under its own limit (`ulimit -v`); None where there is no limit."""
    try:
        resource = import_module("resource")
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _pages()
    if limit == resource.RLIM_INFINITY or pages is None:
        return None
    return max(0, int(limit) - pages[0] * _page_size())


def open_files_limit() -> int | None:
    """How many files this process may have open; None on Windows."""
    try:
        resource = import_module("resource")
    except ImportError:
        return None
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def give_back_freed_memory() -> None:
    """Have GNU's C library return to the system what it holds of memory that was freed; nothing elsewhere."""
    with suppress(*_NO_SUCH_FUNCTION):
        ctypes.CDLL(None).malloc_trim(0)


def _pages() -> tuple[int, int] | None:
    """Pages of this process that are mapped, and that lie in RAM."""
    try:
        mapped, resident, *_ = _STATM.read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(mapped), int(resident)


def _page_size() -> int:
    return os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class _ProcessMemory(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of <psapi.h>."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("working_set", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 6),
    )
    peak_working_set: int
    working_set: int

    @classmethod
    def of_this_process(cls) -> "_ProcessMemory | None":
        kernel = _windows_kernel()
        if kernel is None:
            return None
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
        counters = cls(ctypes.sizeof(cls))
        done = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), ctypes.sizeof(cls))
        return counters if done else None


class _MachineMemory(ctypes.Structure):
    """MEMORYSTATUSEX of <sysinfoapi.h>."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("percent_used", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 5),
    )
    total: int
    available: int

    @classmethod
    def of_this_machine(cls) -> "_MachineMemory | None":
        kernel = _windows_kernel()
        if kernel is None:
            return None
        kernel.GlobalMemoryStatusEx.argtypes = (ctypes.c_void_p,)
        state = cls(ctypes.sizeof(cls))
        return state if kernel.GlobalMemoryStatusEx(ctypes.byref(state)) else None


def _windows_kernel() -> Any:
    libraries = getattr(ctypes, "windll", None)
    return None if libraries is None else libraries.kernel32


# ----- processes ----- #


def can_fork_workers() -> bool:
    """Whether a process without threads may be forked, be handed a socket, and be kept from hearing signals (Linux).

    On macOS, Apple's libraries may end a forked process that uses them; Windows has no fork.
    """
    socket, select = import_module("socket"), import_module("select")
    needed = (
        (os, "fork"), (os, "WNOHANG"), (signal, "pthread_sigmask"), (signal, "SIGKILL"),
        (socket, "send_fds"), (socket, "recv_fds"), (select, "poll"),
    )  # fmt: skip
    return sys.platform == "linux" and all(hasattr(module, name) for module, name in needed)


# For subprocess's creationflags: on Windows a process in a group of its own does not get Ctrl-C, and opens no window.
# Elsewhere 0; a signal mask does the same there, see `stopping_signals_blocked`.
AS_A_GROUP_OF_ITS_OWN = int(
    getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
)


def die_with_parent() -> bool:
    """On Linux, have this process killed at the moment that its parent dies; False where that cannot be had."""
    with suppress(*_NO_SUCH_FUNCTION):
        return bool(ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, _SIGKILL) == 0)
    return False


def kill_at_once(process: int) -> None:
    """End a process, which is not asked."""
    os.kill(process, _SIGKILL)  # Windows ends it for any number


def kill_group(process: int) -> None:
    """End the processes of the group that `process` leads. On Windows, where there are no such groups, nothing ends."""
    if sys.platform != "win32":
        with suppress(AttributeError, OSError):  # it has ended
            os.killpg(process, _SIGKILL)


def is_alive(process: int) -> bool:
    """Whether there is a process of this number; True on Windows, where looking could stop it."""
    if sys.platform != "win32":
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:  # somebody else's
            return True
    return True


def executable_of(process: int) -> str | None:
    """The name of the file that a process runs, as `python3.12` (Linux); None where nobody says."""
    try:
        return Path(f"/proc/{process}/exe").readlink().name
    except OSError:
        return None


def processor_seconds(process: int) -> float | None:
    """For how long the threads of a process have computed (Linux); None where nobody says."""
    if sys.platform != "win32":
        try:
            text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
            user, system = text.rpartition(")")[2].split()[11:13]  # fields 14 and 15; the name may hold spaces
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            pass
    return None


@cache
def this_host() -> str:
    """The machine's name as a part of a file's: up to 32 letters, digits and _; the end of a longer one is hashed."""
    name = str(import_module("socket").gethostname())
    label = re.sub(r"[^A-Za-z0-9]", "_", name) or "_"
    return label if len(label) <= 32 else f"{label[:23]}_{blake2b(name.encode(), digest_size=4).hexdigest()}"


# ----- files ----- #

BINARY = int(getattr(os, "O_BINARY", 0))  # for os.open: without it Windows writes each \n as \r\n
NOT_BLOCKING = int(getattr(os, "O_NONBLOCK", 0))  # for os.open of what may be a pipe; there are none on Windows
NOT_FOLLOWING = int(getattr(os, "O_NOFOLLOW", 0))  # for os.open: a link is an error; Windows has none
CLOSED_IN_CHILDREN = int(getattr(os, "O_CLOEXEC", 0))
RENAMES_OPEN_FILES = hasattr(os, "getuid")  # Windows, which has no users of this kind, refuses to rename or delete them


def has_memory_files() -> bool:
    """Whether there are files in memory that processes can share (Linux)."""
    return hasattr(os, "memfd_create")


def new_memory_file(name: str) -> int:
    """The descriptor of a file that lies in memory and has no name in any folder (Linux).

    Raises:
        OSError: there are none here.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)  # closed in children that are started
    raise OSError(errno.ENOSYS, "this platform has no memory files")


def open_file_of(process: int, descriptor: int, flags: int) -> int:
    """A descriptor of one's own for a file that another process has open (Linux).

    Raises:
        OSError: it is closed, may not be opened from here, or the platform cannot do that.
    """
    return os.open(f"/proc/{process}/fd/{descriptor}", flags | CLOSED_IN_CHILDREN)


def read_at(descriptor: int, size: int, place: int) -> bytes:
    """Up to `size` bytes of a file from `place` on; other readers are not disturbed (not on Windows)."""
    if sys.platform != "win32":
        return os.pread(descriptor, size, place)
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def write_at(descriptor: int, content: bytes, place: int) -> int:
    """Write into a file from `place` on; how many bytes were written (not on Windows)."""
    if sys.platform != "win32":
        return os.pwrite(descriptor, content, place)
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def write_parts(descriptor: int, parts: Sequence[bytes]) -> int:
    """Write several pieces at once, one behind the other; how many bytes were written (not on Windows)."""
    if sys.platform != "win32":
        return os.writev(descriptor, parts)
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def replace(source: Path, target: Path) -> None:
    """Give `source` the name `target`, in one moment, whatever had it.

    Windows refuses that while any program, such as a virus scanner, has one of them open: it is tried again for
    `SECONDS_OPEN`.

    Raises:
        OSError: it cannot be done.
    """
    end = time.monotonic() + SECONDS_OPEN
    while True:
        try:
            source.replace(target)
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) is None or time.monotonic() > end:
                raise
        time.sleep(0.02)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where that can be done: not on Windows, nor on some network disks."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def relative_path(path: str | Path, start: str | Path) -> str:
    """`path` as seen from the folder `start`; the whole path where they lie on two drives of Windows."""
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return os.path.abspath(path)  # noqa: PTH100


def place_of(path: str | Path) -> tuple[int, int, str]:
    """What two paths have in common if they lead, or would lead, to one file or folder, and else not.

    It is the nearest folder above `path` that exists, and the names below it. `Cat` and `cat` are one name where the
    file system ignores case, as that of macOS and Windows usually does.
    """
    whole = Path(os.path.realpath(path))
    folder = next((above for above in whole.parents if above.is_dir()), whole)
    names = str(whole.relative_to(folder))
    state = folder.stat() if folder.exists() else None
    if state is None:
        return 0, 0, str(whole)
    return state.st_dev, state.st_ino, _folded(names) if ignores_case(folder) else names


def ignores_case(folder: Path) -> bool:
    """Whether `Cat` and `cat` are one file in `folder`: a name that is there is looked up in the other case."""
    for name in _names_there(folder):
        try:
            other = os.lstat(name.with_name(name.name.swapcase()))
            return os.path.samestat(other, os.lstat(name))
        except OSError:
            return False
    return False


def _names_there(folder: Path) -> Iterator[Path]:
    """Paths with letters in their names, on the file system of `folder`: in it, itself, and above it."""
    with suppress(OSError):
        device = folder.stat().st_dev
        with os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries if _has_letters(entry.name))
        for path in (folder, *folder.parents):
            if path.parent.stat().st_dev == device and _has_letters(path.name):
                yield path


def _has_letters(name: str) -> bool:
    return name.isascii() and name != name.swapcase()


def _folded(names: str) -> str:
    return unicodedata.normalize("NFC", names).casefold()


def is_anothers(state: os.stat_result) -> bool:
    """Whether another user owns a file; False on Windows, where nothing says."""
    return hasattr(os, "getuid") and state.st_uid != os.getuid()


def is_safe_from_others(folder: Path) -> bool:
    """Whether nobody but this user and root may write into a folder; False on Windows, where modes do not say."""
    if not hasattr(os, "getuid"):
        return False
    state = folder.stat()
    return state.st_uid in (os.getuid(), 0) and not state.st_mode & 0o022


def loaded_libraries(name: str) -> list[str]:
    """The paths of the shared libraries of this process whose names begin with `name`; none where there is no /proc.

    Raises:
        OSError: /proc cannot be read.
    """
    if not _MAPS.exists():
        return []
    mapped = _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return sorted({path for line in mapped if f"/{name}" in (path := line.split(maxsplit=5)[-1])})
