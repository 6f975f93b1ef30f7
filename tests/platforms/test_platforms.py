"""What platforms differ in, each with what it lacks taken away, or with what only it has put in its place."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2t_vit import platforms
from t2t_vit.files import atomic_write, lead_to


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "locked", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


HOLDER = """
import sys
import time
from t2t_vit.platforms import lock
with open(sys.argv[1], "r+b") as file:
    lock(file.fileno())
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_holds_until_its_process_ends(tmp_path: Path, file: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "locked")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError):
            platforms.lock(file)
        holder.kill()
    platforms.lock(file)


def windows_locks(error: OSError | None = None) -> tuple[types.ModuleType, list[tuple[int, int, int]]]:
    msvcrt, calls = types.ModuleType("msvcrt"), []

    def locking(descriptor: int, mode: int, size: int) -> None:
        calls.append((os.lseek(descriptor, 0, os.SEEK_CUR), mode, size))
        if error is not None:
            raise error

    msvcrt.__dict__.update(locking=locking, LK_NBLCK=2)
    return msvcrt, calls


def test_windows_locks_a_byte_that_nobody_reads(monkeypatch: pytest.MonkeyPatch, file: int) -> None:
    msvcrt, calls = windows_locks()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    os.write(file, b"whose it is")
    platforms.lock(file)
    assert calls == [(2**30, 2, 1)]
    assert os.lseek(file, 0, os.SEEK_CUR) == len(b"whose it is") == os.fstat(file).st_size


def test_what_windows_says_of_a_lock_that_another_holds(monkeypatch: pytest.MonkeyPatch, file: int) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    for number in (errno.EACCES, errno.EDEADLK):
        monkeypatch.setitem(sys.modules, "msvcrt", windows_locks(OSError(number, "Permission denied"))[0])
        with pytest.raises(BlockingIOError):
            platforms.lock(file)
    monkeypatch.setitem(sys.modules, "msvcrt", windows_locks(OSError(errno.EBADF, "Bad file descriptor"))[0])
    with pytest.raises(OSError, match="Bad file"):
        platforms.lock(file)


def test_without_any_locks_it_is_said(monkeypatch: pytest.MonkeyPatch, file: int) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with pytest.raises(platforms.NoLocksError, match="this platform has none"):
        platforms.lock(file)


WINDOWS_SIGNALS = """
import signal
for name in ("SIGHUP", "SIGUSR1", "SIGKILL", "pthread_sigmask", "SIG_BLOCK", "SIG_SETMASK"):
    delattr(signal, name)
from t2t_vit.platforms import IGNORABLE, STOPPING, stopping_signals_blocked, block_stopping_signals
from t2t_vit.training.signals import Stopped, heard
with stopping_signals_blocked():
    block_stopping_signals()
with heard(print):
    signal.raise_signal(signal.SIGTERM)
print([number.name for number in STOPPING], [number.name for number in IGNORABLE], Stopped(15).name)
"""


def test_signals_that_a_platform_lacks_are_left_out() -> None:
    done = subprocess.run([sys.executable, "-c", WINDOWS_SIGNALS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("15\n['SIGTERM', 'SIGINT'] ['SIGINT'] SIGTERM\n", "")


def test_names_of_signals() -> None:
    assert (platforms.signal_name(15), platforms.signal_name(9), platforms.signal_name(4711)) == (
        "SIGTERM", "SIGKILL", "signal 4711",
    )  # fmt: skip


class Kernel:
    """kernel32, as Windows' documentation has the layout of its structures on 64 bits."""

    def __init__(self, works: bool = True) -> None:
        self.GetCurrentProcess = lambda: 2**64 - 1
        self.K32GetProcessMemoryInfo = lambda _, into, size: works and self.fill(into, size, 72, {8: 5_000, 16: 3_000})
        self.GlobalMemoryStatusEx = lambda into: works and self.fill(into, None, 64, {8: 16_000, 16: 9_000})
        for function in (self.GetCurrentProcess, self.K32GetProcessMemoryInfo, self.GlobalMemoryStatusEx):
            function.__dict__.update(argtypes=(), restype=None)

    @staticmethod
    def fill(into: object, size: int | None, expected: int, numbers: dict[int, int]) -> int:
        structure = into._obj  # type: ignore[attr-defined]
        assert ctypes.sizeof(structure) == structure.size == expected and size in (None, expected)
        for place, number in numbers.items():
            ctypes.c_uint64.from_buffer(structure, place).value = number
        return 1


def on_windows(monkeypatch: pytest.MonkeyPatch, *, works: bool = True) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(platforms, "_STATM", Path("/nowhere"))
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.setattr(ctypes, "windll", types.SimpleNamespace(kernel32=Kernel(works)), raising=False)


def test_memory_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    on_windows(monkeypatch)
    assert platforms.peak_resident_memory() == 5_000
    assert platforms.resident_memory() == 3_000
    assert platforms.machine_memory() == 16_000
    assert platforms.free_machine_memory() == 9_000
    assert platforms.address_space_left() is None


def test_memory_where_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    on_windows(monkeypatch, works=False)
    assert platforms.peak_resident_memory() is platforms.resident_memory() is platforms.free_machine_memory() is None
    monkeypatch.delattr(ctypes, "windll")
    assert platforms.peak_resident_memory() is platforms.resident_memory() is None
    assert platforms.machine_memory() == 0


def test_memory_of_this_process() -> None:
    held = platforms.resident_memory()
    peak = platforms.peak_resident_memory()
    assert peak is not None and peak > 2**20
    assert held is None or held > 2**20
    assert platforms.machine_memory() > peak


def test_workers_are_forked_on_linux_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((os, "fork"), (signal, "pthread_sigmask"), (signal, "SIGKILL")):
        with monkeypatch.context() as patch:
            patch.delattr(module, name, raising=False)
            assert not platforms.can_fork_workers()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not platforms.can_fork_workers()


def refused(*_: object, **__: object) -> None:
    raise OSError(1, "A required privilege is not held by the client")


def test_a_second_name_without_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "symlink_to", refused)
    first, second, link = tmp_path / "a-1.ckpt", tmp_path / "a-2.ckpt", tmp_path / "last.ckpt"
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    for target in (first, first, second, second):
        lead_to(link, target)
        assert link.samefile(target) and not link.is_symlink()
    monkeypatch.setattr(Path, "hardlink_to", refused)
    lead_to(link, first)
    assert link.read_bytes() == b"first" and not link.samefile(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.ckpt", "a-2.ckpt", "last.ckpt"]


def test_a_file_that_another_program_has_open_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, refusals = Path.replace, [True, True]

    def is_open(path: Path, target: Path) -> Path:
        if refusals and refusals.pop():
            error = PermissionError(13, "The process cannot access the file")
            error.winerror = 32  # type: ignore[attr-defined,unused-ignore]
            raise error
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", is_open)
    with atomic_write(tmp_path / "a.txt", "w") as file:
        file.write("one\ntwo\n")
    assert (tmp_path / "a.txt").read_bytes() == b"one\ntwo\n" and not refusals
    refusals[:] = [True] * 10_000
    monkeypatch.setattr(platforms, "SECONDS_OPEN", 0)
    with pytest.raises(PermissionError):
        platforms.replace(tmp_path / "a.txt", tmp_path / "b.txt")


def test_a_folder_that_cannot_be_opened_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = os.open

    def open_no_folder(path: str | Path, *arguments: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        return open_file(path, *arguments)

    monkeypatch.setattr(os, "open", open_no_folder)
    with atomic_write(tmp_path / "a.txt") as file:
        file.write(b"whole")
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


def test_a_path_on_another_drive_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platforms.relative_path("/a/b/c", "/a/d") == os.path.join("..", "b", "c")  # noqa: PTH118

    def on_two_drives(*_: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", on_two_drives)
    assert platforms.relative_path("/a/b/c", "/a/d") == "/a/b/c"


def test_who_is_alive() -> None:
    assert platforms.is_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert not platforms.is_alive(process.pid)
    assert not platforms.is_alive(2**80)


def test_processor_seconds_of_a_process_grow_while_it_computes_alone() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    before = platforms.processor_seconds(os.getpid())
    assert before is not None
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert (platforms.processor_seconds(os.getpid()) or 0) > before
    assert platforms.processor_seconds(2**22 + 1) is None  # there is no such process


def lstat_ignoring_case(path: Path | str) -> os.stat_result:
    """As on macOS: a name is found in any case."""
    path = Path(path)
    same = [name for name in path.parent.iterdir() if name.name.lower() == path.name.lower()]
    return LSTAT(same[0] if same else path)


LSTAT = os.lstat


def test_a_place_has_one_name_where_case_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Out").mkdir()
    assert not platforms.ignores_case(tmp_path)
    assert platforms.place_of(tmp_path / "Out/a/b") != platforms.place_of(tmp_path / "Out/A/b")
    monkeypatch.setattr(os, "lstat", lstat_ignoring_case)
    assert platforms.ignores_case(tmp_path) and platforms.ignores_case(tmp_path / "Out")
    assert platforms.place_of(tmp_path / "Out/a/b") == platforms.place_of(tmp_path / "Out/A/B")
    assert platforms.place_of(tmp_path / "Out/a/b") != platforms.place_of(tmp_path / "Out/a/c")
    assert platforms.place_of(tmp_path / "Out/Stra\u00dfe") == platforms.place_of(tmp_path / "Out/STRASSE")


def test_a_place_is_the_same_by_a_link_and_by_a_way_around(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    assert platforms.place_of(tmp_path / "link/new") == platforms.place_of(tmp_path / "out/../out/new")
    assert platforms.place_of("/") == platforms.place_of("/..")
