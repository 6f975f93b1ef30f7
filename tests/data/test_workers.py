"""Worker processes: what they answer, how they end, and what happens where a machine is in the way."""

import errno
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2t_vit.data import worker, workers
from t2t_vit.data.workers import Pool, WorkerDiedError, WorkerSilentError, WorkersUnavailableError, in_order
from t2t_vit.platforms import can_fork_workers

LONG = 600  # seconds, on a busy machine; nobody waits for them
ROOT = Path(__file__).parents[2]


def doubled(number: int) -> int:
    """Even ones take longer."""
    time.sleep(0.002 * (number % 2 == 0))
    return 2 * number


def process_of(_: object) -> int:
    return os.getpid()


def fatal(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fatal_once(marker: str) -> bool:
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(7)
    return True


def printing(_: object) -> int:
    print("heard by nobody", flush=True)  # noqa: T201
    return os.getpid()


def unsendable(_: object) -> Callable[[], None]:
    return lambda: None


def asleep(marker: str) -> None:
    Path(marker).touch()
    time.sleep(LONG)


class UntravelledError(Exception):
    """Cannot be made from its arguments, so no pickle of it can be opened."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first + second)


def raising(_: object) -> None:
    raise UntravelledError(1, 2)


def ones(shape: tuple[int, ...]) -> tuple[str, np.ndarray]:
    return "ones", np.ones(shape, np.uint8)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process that forks workers is to be started anew."""
    monkeypatch.setattr(workers, "_servers", {})
    monkeypatch.setattr(workers.atexit, "register", lambda _: None)
    yield
    for server in workers._servers.values():
        server.kill()


@pytest.mark.skipif(not can_fork_workers(), reason="no workers are forked here")
def test_a_main_process_that_was_killed_over_an_answer_leaves_no_traceback() -> None:
    control, theirs = socket.socketpair()
    command = workers._program("fork_server", "serve_forks", theirs.fileno(), [])
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as server:
        theirs.close()
        control.sendall(worker.ORDER.pack(worker.REAP, 2**22 + 1))  # no process has that number
        control.recv(worker.REPLY.size, socket.MSG_PEEK | socket.MSG_WAITALL)
        control.close()  # with an answer that nobody has read, which resets the connection
        assert server.communicate(timeout=LONG)[1] == b""
    assert server.returncode == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_answers_come_in_order_for_any_number_of_requests(count: int) -> None:
    answers = in_order(doubled, count)
    for requests in (0, 1, 2, 40):
        assert list(answers(range(requests))) == [2 * number for number in range(requests)]


def test_requests_are_taken_a_few_ahead_and_what_is_left_behind_does_not_disturb() -> None:
    taken: list[int] = []

    def requests() -> Any:
        for number in range(20):
            taken.append(number)
            yield number

    answers = in_order(doubled, 2)
    first = answers(requests())
    assert next(first) == 0
    assert taken == list(range(2 * workers.AHEAD + 1))
    first.close()  # type: ignore[attr-defined]
    assert list(answers([5, 6])) == [10, 12]


def test_arrays_arrive_as_they_were_sent_and_can_be_written_to() -> None:
    for shape in ((0, 3), (2, 3, 4), (3, 1_000_001)):
        (name, array), *rest = in_order(ones, 1)([shape])
        assert (name, array.shape, rest) == ("ones", shape, [])
        assert array.all()
        array += 1


def test_what_is_done_on_arrival_is_done_here() -> None:
    assert list(in_order(process_of, 1, arrive=lambda pid: (pid, os.getpid()))([0])) != [(os.getpid(), os.getpid())]
    assert [here for _, here in in_order(process_of, 1, arrive=lambda pid: (pid, os.getpid()))([0])] == [os.getpid()]
    with pytest.raises(ZeroDivisionError):
        list(in_order(doubled, 1, arrive=lambda number: 1 // number)([0]))


def test_a_death_is_the_failure_of_one_request_and_says_how() -> None:
    pool = Pool(fatal, 1)
    futures = pool.submit([1, 2, 3, 4])
    assert [future.result(LONG) for future in (futures[0], futures[1], futures[3])] == [1, 2, 4]
    error = futures[2].exception(LONG)
    assert isinstance(error, WorkerDiedError) and str(error) == "was killed by SIGKILL"
    pool.close()


def test_a_request_may_be_tried_again(tmp_path: Path) -> None:
    pool = Pool(fatal_once, 1, attempts=2)
    assert pool.submit([str(tmp_path / "a")])[0].result(LONG) is True
    pool.close()
    pool = Pool(fatal_once, 1)
    assert str(pool.submit([str(tmp_path / "b")])[0].exception(LONG)) == "ended with exit code 7"
    pool.close()


def test_what_cannot_be_handed_over_is_an_error() -> None:
    pool = Pool(unsendable, 1)
    error = pool.submit([0])[0].exception(LONG)
    assert error is not None and "pickle" in str(error)
    with pytest.raises(Exception, match="pickle"):
        pool.submit([lambda: None])[0].result(LONG)
    pool.close()
    pool = Pool(raising, 1)
    error = pool.submit([0])[0].exception(LONG)
    assert isinstance(error, RuntimeError) and "UntravelledError: 3" in str(error)
    pool.close()


def test_no_memory_for_an_answer_is_an_error_and_the_next_request_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(ones, 1)
    read = worker._read

    def small(connection: socket.socket, size: int) -> bytearray:
        if size > 10**6:
            raise MemoryError
        return read(connection, size)

    monkeypatch.setattr(worker, "_read", small)
    large, after = pool.submit([(10**7,)])[0], pool.submit([(3,)])[0]
    assert isinstance(large.exception(LONG), MemoryError)
    assert after.result(LONG)[1].tolist() == [1, 1, 1]
    pool.close()


@pytest.mark.parametrize("explicit", [True, False])
def test_workers_end_in_the_middle_of_a_request_with_their_pool(tmp_path: Path, explicit: bool) -> None:
    marker = tmp_path / "asleep"
    pool = Pool(asleep, 1)
    future = pool.submit([str(marker)])[0]
    wait_for(marker.exists)
    (running,) = pool._shared._workers
    if explicit:
        pool.close()
    else:
        del pool
    wait_for(lambda: has_ended(running._pid))
    assert future.exception(LONG) is not None


def stuck(how: str) -> str:
    """Lives, and never answers: as on a disk that hangs, or where it was stopped."""
    if how == "asleep":
        time.sleep(LONG)
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    return how


@pytest.mark.parametrize("how", ["asleep", "stopped"])
def test_a_worker_that_lives_and_gives_no_answer_is_not_waited_for_for_ever(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "EVERY", 0.05)
    pool = Pool(stuck, 1, attempts=2)
    assert pool.submit(["first"])[0].result(LONG) == "first"  # to begin takes long on a busy machine
    monkeypatch.setattr(workers, "SILENT", 0.6)
    silent, following = pool.submit([how, "next"])
    with pytest.raises(WorkerSilentError, match=r"gave no answer for 0.01 minutes"):
        silent.result(LONG)
    monkeypatch.setattr(workers, "SILENT", LONG)
    assert following.result(LONG) == "next"
    pool.close()


def test_a_worker_that_does_not_begin_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "EVERY", 0.05)
    monkeypatch.setattr(workers, "SILENT", 0.6)
    here: Callable[[int], int] = type(
        "Here", (), {"__call__": lambda _, n: n, "__reduce__": lambda _: (time.sleep, (LONG,))}
    )()
    pool = Pool(here, 1)
    with pytest.raises(WorkersUnavailableError, match="the first one was not ready in time"):
        pool.submit([1])[0].result(LONG)
    pool.close()


def test_threads_end_with_their_pool() -> None:
    before = set(threading.enumerate())
    pool = Pool(doubled, 3)
    pool.submit([1])[0].result(LONG)
    pool.close()
    assert not set(threading.enumerate()) - before


@pytest.mark.usefixtures("no_server")
def test_a_server_that_was_killed_is_started_again() -> None:
    pool = Pool(fatal, 1)
    assert pool.submit([1])[0].result(LONG) == 1
    server = workers._servers[os.getpid()]
    server._process.kill()
    server._process.wait()
    assert pool.submit([2])[0].result(LONG) == 2  # its worker lives
    assert str(pool.submit([3])[0].exception(LONG)) == "was killed"  # nobody knows by what
    assert pool.submit([4])[0].result(LONG) == 4
    pool.close()


@pytest.mark.usefixtures("no_server")
def test_without_a_server_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(ROOT / "nowhere"))
    pool = Pool(doubled, 1)
    with pytest.raises(WorkersUnavailableError, match="No such file"):
        pool.submit([1])[0].result(LONG)
    pool.close()


@pytest.mark.usefixtures("no_server")
def test_a_server_that_ends_at_once_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = Pool(doubled, 1)
    with pytest.raises(WorkersUnavailableError, match="the process that starts them ended"):
        pool.submit([1])[0].result(LONG)
    pool.close()


def test_a_system_without_room_for_a_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers._Server, "order", lambda *_, **__: -errno.EAGAIN)
    pool = Pool(doubled, 1)
    with pytest.raises(WorkersUnavailableError, match=os.strerror(errno.EAGAIN)):
        pool.submit([1])[0].result(LONG)
    pool.close()


def test_what_a_worker_cannot_load_is_the_reason() -> None:
    here: Callable[[int], int] = type("Here", (), {"__call__": lambda _, number: number, "__reduce__": _unloadable})()
    pool = Pool(here, 1)
    with pytest.raises(WorkersUnavailableError, match="ZeroDivisionError"):
        pool.submit([1])[0].result(LONG)
    pool.close()


def _unloadable(_: object) -> tuple[Callable[[int, int], int], tuple[int, int]]:
    return divmod, (1, 0)  # type: ignore[return-value]


@pytest.mark.usefixtures("no_server")
def test_a_long_folder_for_temporary_files_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a socket may have 107 bytes."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert list(in_order(doubled, 1)([1, 2])) == [2, 4]
    assert list(folder.iterdir()) == []


FULL = """
import sys; sys.path[:] = {path!r}
from t2t_vit.data.loader import EvalLoader
from t2t_vit.data.datasets import open_images
from t2t_vit.data.preprocessing import Preprocessing
images = open_images("val", dataset="FashionMNIST", in_chans=3, num_samples=64)
print(sum(len(targets) for _, targets in EvalLoader(images, Preprocessing((224, 224)), batch_size=16, workers=1)))
"""


def test_a_full_shared_memory_is_not_in_the_way() -> None:
    """Containers have 64 MB of it. A batch here has 2.4 MB, the file system there 64 kB."""
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    allowed = subprocess.run(["unshare", "--mount", "sh", "-c", mount], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("this user may not mount a small /dev/shm")
    command = f'{mount} && exec "$0" -c "$1"'
    program = FULL.format(path=sys.path)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, sys.executable, program],
        capture_output=True, text=True, check=False, timeout=LONG,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "64\n"), done.stderr


def check_that_it_hears_no_signal_of_the_group(pool: Pool) -> None:
    """The one worker of a pool that answers with its process."""
    pid = pool.submit([0])[0].result(LONG)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"):
        os.kill(pid, getattr(signal, name))
    assert pool.submit([0])[0].result(LONG) == pid
    pool.close()


def test_workers_hear_no_signal_of_the_group() -> None:
    pool = Pool(process_of, 1)
    check_that_it_hears_no_signal_of_the_group(pool)


def test_a_program_needs_no_guard_for_its_workers(tmp_path: Path) -> None:
    """What is started imports nothing of the main program."""
    script = tmp_path / "script.py"
    script.write_text(FULL.format(path=sys.path))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=LONG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "64\n", "")


def test_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert [workers.usable_workers(wanted) for wanted in (0, 1, 9)] == [0, 1, 2]
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert workers.usable_workers(9) == 3


def asked(answer: Callable[[Any], Any], thing: object) -> Any:
    """What one worker, started for this alone, answers."""
    pool = Pool(answer, 1)
    try:
        return pool.submit([thing])[0].result(LONG)
    finally:
        pool.close()


@pytest.fixture
def no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows and macOS, where each worker is started as a program."""
    monkeypatch.delattr(os, "fork")


@pytest.mark.usefixtures("no_fork")
def test_started_workers_answer_in_order_and_their_arrays_can_be_written_to() -> None:
    answers = in_order(ones, 2, ["numpy", "no_such_module"])
    shapes = [(2, 3), (0,), (300, 400)]
    for shape, (word, array) in zip(shapes, answers(shapes), strict=True):
        assert (word, array.shape, int(array.sum())) == ("ones", shape, array.size)
        array[...] = 2


@pytest.mark.usefixtures("no_fork")
def test_the_death_of_a_started_worker_is_the_failure_of_one_request_and_says_how(tmp_path: Path) -> None:
    pool = Pool(fatal, 1)
    answered = pool.submit([1, 2, 3, 4])
    assert [answered[place].result(LONG) for place in (0, 1, 3)] == [1, 2, 4]
    with pytest.raises(WorkerDiedError, match="was killed by SIGKILL"):
        answered[2].result(LONG)
    with pytest.raises(WorkerDiedError, match="ended with exit code 7"):
        asked(fatal_once, str(tmp_path / "marker"))
    pool.close()


@pytest.mark.usefixtures("no_fork")
def test_started_workers_end_in_the_middle_of_a_request_with_their_pool(tmp_path: Path) -> None:
    pool = Pool(asleep, 1)
    marker = tmp_path / "marker"
    future = pool.submit([str(marker)])[0]
    wait_for(marker.exists)
    pool.close()
    with pytest.raises(WorkerDiedError, match="was killed"):
        future.result(LONG)


PARENT = """
import os, sys, time
sys.path[:] = {path!r}
del os.fork
from t2t_vit.data.workers import Pool
from tests_of_workers import asleep
pool = Pool(asleep, 1)
pool.submit(["marker"])
while not os.path.exists("marker"): time.sleep(0.01)
os.kill(os.getpid(), 9)
"""


def test_a_started_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    tests = 'import os, time\ndef asleep(marker):\n    open(marker, "w").write(str(os.getpid()))\n    time.sleep(600)\n'
    (tmp_path / "tests_of_workers.py").write_text(tests, encoding="utf-8")
    code = PARENT.format(path=[str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, timeout=LONG)
    wait_for(lambda: has_ended(int((tmp_path / "marker").read_text(encoding="utf-8") or "0")))


@pytest.mark.usefixtures("no_fork")
def test_a_started_worker_says_what_it_cannot_load_and_what_it_cannot_send() -> None:
    with pytest.raises(RuntimeError, match="in a worker process") as raised:
        asked(raising, 0)
    assert "UntravelledError" in str(raised.value)
    with pytest.raises(Exception, match=r"[Pp]ickle|local object"):
        asked(unsendable, 0)


@pytest.mark.usefixtures("no_fork")
def test_started_workers_hear_no_signal_of_the_group_and_print_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    pool = Pool(printing, 1)
    check_that_it_hears_no_signal_of_the_group(pool)
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("no_fork")
def test_without_a_program_to_start_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkersUnavailableError, match="No such file"):
        asked(doubled, 0)


def test_a_pipe_that_nobody_reads_is_a_broken_one() -> None:
    """Windows says EINVAL where others say EPIPE."""

    class Unread(io.RawIOBase):
        def write(self, _: object) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

    with pytest.raises(BrokenPipeError, match="Invalid argument"):
        worker.Pipes(io.BytesIO(), Unread()).sendall(b"x")
