"""`python stand_in.py windows|macos`: takes away what that platform lacks, then runs the commands of standard input.

Each line of standard input is a JSON list of words for `t2t-vit`; for each, one line of standard output beginning with
EXIT gives its exit code. The libraries are imported before anything is taken away: they have their own builds for each
platform, and here only their Linux build is at hand. `sys.platform` is changed as well, unless the second argument is
`keep`: then a thing must be found missing by looking for it.

What is imitated of Windows' file system: a file that is open, or mapped, is neither renamed, replaced nor deleted;
names may not hold <>:"|?* or end with a dot or a space, nor be CON, NUL, AUX, ...; there are no symbolic links without
a right that few have; folders cannot be opened; nothing lies in /proc or /dev/shm. On both platforms names are
found in any case.
"""

import builtins
import functools
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

LIBRARIES = (
    "asyncio", "concurrent.futures.process", "multiprocessing.resource_tracker", "multiprocessing.spawn", "zipfile",
    "numpy", "PIL.Image", "torch", "torch.distributed", "torchvision.transforms.v2", "timm", "rich.console",
    "safetensors.torch", "torch.utils.tensorboard", "tensorboard", "onnx", "onnxscript", "onnxruntime", "torch.onnx",
    "torch.export", "torch._inductor.utils", "matplotlib.pyplot",
)  # fmt: skip
MODULES = ("fcntl", "resource", "grp", "pwd", "termios", "tty", "pty", "syslog")
SIGNALS = (
    "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGQUIT", "SIGPIPE", "SIGSTOP", "SIGTSTP",
    "SIGCONT", "pthread_sigmask", "pthread_kill", "SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK", "alarm", "setitimer",
    "sigwait",
)  # fmt: skip
SYSTEM = (
    "fork", "forkpty", "killpg", "getuid", "geteuid", "getgid", "getegid", "getpgid", "setsid", "nice", "pread",
    "pwrite", "writev", "readv", "sched_getaffinity", "sysconf", "memfd_create", "MFD_CLOEXEC", "register_at_fork",
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "mkfifo", "wait", "uname", "getloadavg", "posix_fadvise",
)  # fmt: skip
NETWORK = ("send_fds", "recv_fds", "AF_UNIX")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
IMPOSSIBLE = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$')


class FileSystem:
    """An audit hook: every call that Python makes of the file system passes here first."""

    def __init__(self) -> None:
        self._maps, self._links = open("/proc/self/maps", "rb", buffering=0), "/proc/self/fd"  # noqa: PTH123, SIM115
        self._looking = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._looking:
            return
        self._looking = True
        try:
            is_descriptor = event == "open" and arguments[1] is None  # of os.open; `open` of a folder fails anyway
            self._check(
                event,
                is_descriptor,
                [os.fsdecode(path) for path in arguments if isinstance(path, str | bytes | os.PathLike)],
            )
        finally:
            self._looking = False

    def _check(self, event: str, is_descriptor: bool, paths: list[str]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and paths:
            if paths[0].startswith(("/proc", "/dev/shm", "/sys")):
                raise FileNotFoundError(2, "No such file or directory", paths[0])
            if is_descriptor and Path(paths[0]).is_dir():
                raise PermissionError(13, "Permission denied", paths[0])
        if event in ("open", "os.mkdir", "os.rename"):
            for path in paths[:2]:
                self._check_name(path)
        if event == "os.symlink":
            raise OSError(1, "A required privilege is not held by the client")
        if event in ("os.rename", "os.remove"):
            for path in paths[: 1 + (event == "os.rename")]:
                self._check_closed(path)

    def _check_name(self, path: str) -> None:
        if not Path(path).absolute().is_relative_to(Path.cwd()):
            return  # of the libraries' own
        for name in Path(path).parts[Path(path).is_absolute() :]:
            if name != ".." and (RESERVED.fullmatch(name) or IMPOSSIBLE.search(name)):
                raise OSError(22, "Invalid argument", path)

    def _check_closed(self, path: str) -> None:
        whole = os.path.realpath(path)
        self._maps.seek(0)
        is_open = whole in {os.path.realpath(f"{self._links}/{name}") for name in os.listdir(self._links)}  # noqa: PTH208
        if is_open or whole.encode() in self._maps.readall():
            error = PermissionError(13, "The process cannot access the file: it is being used by another process", path)
            error.winerror = 32  # type: ignore[attr-defined,unused-ignore]
            raise error


class IgnoringCase:
    """`Cat` is `cat`: a name that is not there in the case in which it is asked for is looked for in another."""

    FUNCTIONS = ("open", "stat", "lstat", "mkdir", "scandir", "listdir", "rename", "replace", "unlink", "remove",
                 "rmdir", "link", "symlink", "readlink", "chmod", "utime", "access")  # fmt: skip

    def __init__(self) -> None:
        self._lexists, self._list = os.lstat, os.listdir
        for module, names in ((os, self.FUNCTIONS), (io, ("open", "open_code")), (builtins, ("open",))):
            for name in names:
                setattr(module, name, self._wrapped(getattr(module, name)))

    def _wrapped(self, function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def called(*arguments: object, **named: object) -> object:
            return function(*map(self._there, arguments[:2]), *arguments[2:], **named)

        return called

    def _there(self, argument: object) -> object:
        if not isinstance(argument, str | os.PathLike) or not isinstance(os.fspath(argument), str):
            return argument
        path = os.fspath(argument)
        if not Path(path).absolute().is_relative_to(Path.cwd()) or self._is_there(path):
            return argument
        found = os.sep if path.startswith(os.sep) else ""
        for name in Path(path).parts[path.startswith(os.sep) :]:
            whole = os.path.join(found, name)  # noqa: PTH118
            try:
                same = (
                    [] if self._is_there(whole) else [n for n in self._list(found or ".") if n.lower() == name.lower()]
                )
            except OSError:
                same = []
            found = os.path.join(found, same[0] if same else name)  # noqa: PTH118
        return found

    def _is_there(self, path: str) -> bool:
        try:
            self._lexists(path)
        except OSError:
            return False
        return True


def windows_locks() -> types.ModuleType:
    """`msvcrt`, of which `locking` locks bytes from where a file stands, as that of Windows."""
    fcntl = import_module("fcntl")
    msvcrt = types.ModuleType("msvcrt")

    def locking(descriptor: int, mode: int, size: int) -> None:
        assert mode == 2
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, size)

    msvcrt.locking, msvcrt.LK_NBLCK = locking, 2  # type: ignore[attr-defined]
    return msvcrt


def take_away(module: object, names: tuple[str, ...]) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def become_windows() -> None:
    """From here on, as on Windows."""
    kill = os.kill
    subprocess.Popen.kill = lambda self: kill(self.pid, 9) if self.poll() is None else None  # type: ignore[method-assign]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # type: ignore[assignment,misc]  # as on Windows
    sys.modules["msvcrt"] = windows_locks()
    files = FileSystem()
    tempfile.gettempdir()
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    take_away(signal, SIGNALS)
    take_away(os, SYSTEM)
    take_away(socket, NETWORK)
    take_away(select, ("poll", "epoll"))
    sys.addaudithook(files)


def become_macos() -> None:
    """From here on, as on macOS."""
    take_away(os, ("memfd_create", "MFD_CLOEXEC", "sched_getaffinity", "posix_fadvise"))

    def hide(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(("/proc", "/dev/shm", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", arguments[0])

    sys.addaudithook(hide)


def main() -> None:
    for name in LIBRARIES:
        try:
            import_module(name)
        except ImportError as error:
            sys.stderr.write(f"without {name}: {error}\n")
    platform, *rest = sys.argv[1:]
    {"windows": become_windows, "macos": become_macos}[platform]()
    if "keep" not in rest:
        sys.platform = {"windows": "win32", "macos": "darwin"}[platform]
    IgnoringCase()
    from t2t_vit.cli.main import main as command

    for line in sys.stdin:
        sys.stdout.write(f"EXIT {command(json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
