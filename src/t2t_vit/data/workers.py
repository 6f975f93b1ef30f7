"""Worker processes for training, evaluation and inference: requests go to them, and their answers come back.

Each worker has a socket pair of its own, or a pair of pipes, and a thread here that speaks with it. Nothing is shared:
there is no folder, no address and no shared memory that could be full. A process that dies closes its end, which the
other side notices.
"""

import atexit
import itertools
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from t2t_vit.data.worker import FORK, GRACE, ORDER, REAP, REPLY, UNKNOWN, Connection, Pipes, receive, send
from t2t_vit.platforms import (
    AS_A_GROUP_OF_ITS_OWN,
    block_stopping_signals,
    can_fork_workers,
    signal_name,
    stopping_signals_blocked,
    usable_cores,
)

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")
Task = tuple[Any, "Future[Any]"]

AHEAD = 2  # requests in progress per worker
SILENT = 900.0  # seconds without an answer after which a living worker is given up, for example when a disk hangs
EVERY = 5.0  # seconds between checks for silent workers
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerDiedError(Exception):
    """A worker process ended over a request; the message says how: `was killed by SIGKILL`."""


class WorkerSilentError(WorkerDiedError):
    """A worker process gave no answer for so long that it was ended; the message says how long."""


class WorkersUnavailableError(Exception):
    """No worker process can be started; the message says why."""


def usable_workers(wanted: int) -> int:
    """No more processes than there are cores for this one to run on."""
    return min(wanted, usable_cores())


def in_order(
    answer: Callable[[Thing], Any],
    workers: int,
    modules: Sequence[str] = (),
    arrive: Callable[[Any], Answer] = lambda computed: computed,
) -> Callable[[Iterable[Thing]], Iterator[Answer]]:
    """A function from requests to their answers, in order: computed here, or by `workers` processes ahead of use.

    The processes are started at the first request and stay until nobody holds the function any more.

    Args:
        modules, arrive: see `Pool`.
    """
    if workers == 0:
        return lambda things: (arrive(answer(thing)) for thing in things)
    pool: Pool[Thing, Answer] = Pool(answer, workers, modules, arrive)
    return lambda things: _ahead(pool, things, AHEAD * workers)


def _ahead(pool: "Pool[Thing, Answer]", things: Iterable[Thing], count: int) -> Iterator[Answer]:
    rest = iter(things)
    under_way = deque(pool.submit([thing])[0] for thing in itertools.islice(rest, count))
    try:
        while under_way:
            answer = under_way.popleft().result()
            under_way.extend(pool.submit([thing])[0] for thing in itertools.islice(rest, 1))
            yield answer
    finally:
        for future in under_way:
            future.cancel()


class Pool(Generic[Thing, Answer]):
    """`count` processes, each started when there is work for it, that compute `answer(thing)`.

    Args:
        answer: travels to each worker as a pickle, with what it holds.
        modules: what all workers need, imported once for all that this process ever starts.
        arrive: what is done here, in the thread of the worker, with what was computed there.
        attempts: a thing over which that many workers died is not tried again.
    """

    def __init__(
        self,
        answer: Callable[[Thing], Any],
        count: int,
        modules: Sequence[str] = (),
        arrive: Callable[[Any], Answer] = lambda computed: computed,
        *,
        attempts: int = 1,
    ) -> None:
        self._shared = _Shared(answer, modules, arrive, attempts)
        self._threads = [threading.Thread(target=_settle_all, args=(self._shared,), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        self._threads.append(threading.Thread(target=_watch, args=(self._shared,), daemon=True))
        self._threads[-1].start()
        self._give_up = weakref.finalize(self, self._shared.give_up, count)

    def submit(self, things: Sequence[Thing]) -> "list[Future[Answer]]":
        """Hand `things` to the next free worker together; it answers one after the other.

        A future raises what `answer` raised, WorkerDiedError where a worker died over this thing, WorkerSilentError
        where it did not end, or WorkersUnavailableError.
        """
        futures: list[Future[Answer]] = [Future() for _ in things]
        self._shared.waiting.put(deque(zip(things, futures, strict=True)))
        return futures

    def close(self) -> None:
        """Give up all work, and wait until the workers have ended. Without it they end when nobody holds the pool."""
        self._give_up()
        for thread in self._threads:
            thread.join()


class _Shared:
    """What the threads of a pool share. They do not hold the pool itself, which ends when nobody else does."""

    def __init__(
        self, answer: Callable[[Any], Any], modules: Sequence[str], arrive: Callable[[Any], Any], attempts: int
    ) -> None:
        self.modules, self.arrive, self.attempts = modules, arrive, attempts
        self.waiting: SimpleQueue[deque[Task] | None] = SimpleQueue()
        self._answer, self._pickling = answer, threading.Lock()  # pickling may change an object the first time
        self._lock = threading.RLock()  # `give_up` may be called by the garbage collector, wherever a thread is
        self._workers: set[_Worker] = set()
        self._given_up = False
        self.over: SimpleQueue[None] = SimpleQueue()  # not an event, whose lock the garbage collector may meet

    def hang_up_the_silent(self) -> None:
        """End the workers whose answer does not come."""
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.hang_up_if_silent()

    def start(self) -> "_Worker":
        """A new worker that is ready.

        Raises:
            WorkersUnavailableError: there can be none, or the pool was given up.
        """
        worker = _Forked(self.modules) if can_fork_workers() else _Started(self.modules)
        with self._lock:
            self._workers.add(worker)
            given_up = self._given_up
        try:
            if given_up:
                raise WorkersUnavailableError("they are no longer needed")
            with self._pickling:
                program = pickle.dumps(self._answer, protocol=5)
            worker.begin(program)
        except BaseException:
            self.drop(worker)
            raise
        return worker

    def drop(self, worker: "_Worker") -> str:
        """End a worker; how it ended."""
        with self._lock:
            self._workers.discard(worker)
        return worker.end()

    def give_up(self, threads: int) -> None:
        """Let nobody begin anything more, and end the workers in what they do; the threads do the rest."""
        self.over.put(None)
        with self._lock:
            self._given_up = True
            workers = list(self._workers)
        with suppress(Empty):
            while True:
                for _, future in self.waiting.get_nowait() or ():
                    future.cancel()
        for _ in range(threads):
            self.waiting.put(None)
        for worker in workers:
            worker.hang_up()


def _settle_all(shared: _Shared) -> None:
    """The thread of one worker. Whatever happens, each future is settled: nobody waits for one for ever."""
    block_stopping_signals()  # signals go to the main thread, which may wait for an answer
    worker: _Worker | None = None
    while (tasks := shared.waiting.get()) is not None:
        deaths = 0
        while tasks := _not_cancelled(tasks):
            before = len(tasks)
            try:
                worker = worker or shared.start()
                worker.ask(tasks, shared.arrive)
            except _BrokenError:
                silent = worker is not None and worker.was_silent
                how = shared.drop(worker) if worker else ""
                worker = None
                deaths = deaths + 1 if len(tasks) == before else 1
                if silent:
                    tasks.popleft()[1].set_exception(WorkerSilentError(f"gave no answer for {SILENT / 60:.3g} minutes"))
                    deaths = 0
                elif deaths == shared.attempts:
                    tasks.popleft()[1].set_exception(WorkerDiedError(how))
                    deaths = 0
            except BaseException as error:  # no worker, no memory for an answer, or ours
                if worker is not None:
                    shared.drop(worker)
                    worker = None
                while tasks:
                    tasks.popleft()[1].set_exception(error)
    if worker is not None:
        shared.drop(worker)


def _watch(shared: _Shared) -> None:
    """The thread of a pool that sees to it that nobody waits for ever for a worker that lives."""
    while True:
        try:
            return shared.over.get(timeout=EVERY)
        except Empty:
            shared.hang_up_the_silent()


def _not_cancelled(tasks: "deque[Task]") -> "deque[Task]":
    return deque(
        (thing, future) for thing, future in tasks if future.running() or future.set_running_or_notify_cancel()
    )


class _BrokenError(Exception):
    """The connection to a worker broke."""


class _Worker(ABC):
    """A worker process and the connection to it."""

    _connection: Connection

    was_silent = False
    _since: float | None = None  # time of the last request or answer, while one is expected

    def hang_up_if_silent(self) -> None:
        """End it where its answer has not come for `SILENT` seconds."""
        since = self._since
        if since is not None and time.monotonic() - since > SILENT:
            self.was_silent = True
            self.hang_up()

    def begin(self, program: bytes) -> None:
        """Tell it what it is for, and wait until it is ready: what kills it from then on is a request.

        Raises:
            WorkersUnavailableError: it cannot do that, or died.
        """
        try:
            self._since = time.monotonic()
            send(self._connection, (_current_folder(), program))
            is_ready, reason = receive(self._connection)
        except (EOFError, OSError) as error:
            how = "was not ready in time" if self.was_silent else "died before it was ready"
            raise WorkersUnavailableError(f"the first one {how}") from error
        finally:
            self._since = None
        if not is_ready:
            raise WorkersUnavailableError(f"{type(reason).__name__}: {reason}") from reason

    def ask(self, tasks: "deque[Task]", arrive: Callable[[Any], Any]) -> None:
        """Take the tasks from the left as they are answered; those that it died over are left.

        Raises:
            _BrokenError: it died.
        """
        try:
            self._since = time.monotonic()
            send(self._connection, [thing for thing, _ in tasks])
            while tasks:
                is_answer, answer = receive(self._connection)
                self._settle(tasks[0][1], is_answer, answer, arrive)
                tasks.popleft()
                self._since = time.monotonic()
        except (EOFError, ConnectionError) as error:
            raise _BrokenError from error
        finally:
            self._since = None

    @staticmethod
    def _settle(future: "Future[Any]", is_answer: bool, answer: Any, arrive: Callable[[Any], Any]) -> None:
        if not is_answer:
            future.set_exception(answer)
            return
        try:
            future.set_result(arrive(answer))
        except BaseException as error:
            future.set_exception(error)

    @abstractmethod
    def hang_up(self) -> None:
        """It ends at once, and the thread that waits for its answer wakes up."""

    @abstractmethod
    def end(self) -> str:
        """Let go of it, in its own thread; how it ended."""


class _Forked(_Worker):
    """A worker that the server forks (Linux).

    Raises:
        WorkersUnavailableError: there can be none.
    """

    _connection: socket.socket

    def __init__(self, modules: Sequence[str]) -> None:
        with ExitStack() as if_it_fails:
            try:
                self._connection, theirs = socket.socketpair()
                if_it_fails.enter_context(self._connection)
                with theirs:
                    self._server = _server(modules)
                    self._pid = self._server.order(FORK, descriptor=theirs.fileno())
            except ConnectionError as error:
                raise WorkersUnavailableError("the process that starts them ended") from error
            except OSError as error:
                raise WorkersUnavailableError(error.strerror) from error
            if self._pid < 0:
                raise WorkersUnavailableError(os.strerror(-self._pid))
            if_it_fails.pop_all()

    def hang_up(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def end(self) -> str:
        self.hang_up()
        self._connection.close()
        try:
            code = self._server.order(REAP, self._pid)
        except OSError:  # the server was killed as well
            code = UNKNOWN
        return "was killed" if code == UNKNOWN else _how_it_ended(code)


class _Started(_Worker):
    """A worker that is started as a program, where nothing can be forked (Windows, macOS).

    Raises:
        WorkersUnavailableError: there can be none.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        try:
            with stopping_signals_blocked():
                self._process = subprocess.Popen(
                    _program("worker", "work_on_pipes", list(modules)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    env=os.environ | _ONE_THREAD,
                    creationflags=AS_A_GROUP_OF_ITS_OWN,
                )
        except OSError as error:
            raise WorkersUnavailableError(error.strerror) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._connection = Pipes(self._process.stdout, self._process.stdin)

    def hang_up(self) -> None:
        with suppress(OSError):  # it has just ended
            self._process.kill()

    def end(self) -> str:
        self._connection.close()
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.hang_up()
            code = self._process.wait()
        return _how_it_ended(code)


def _how_it_ended(code: int) -> str:
    return f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


def _program(module: str, function: str, *arguments: object) -> list[str]:
    """The command line of a process that calls a function of a module in this folder: nothing of the main program."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    called = f"{function}({', '.join(map(repr, arguments))})"
    code = f"import sys; sys.path[:] = {path!r}; from t2t_vit.data.{module} import {function}; {called}"
    return [sys.executable, "-c", code]


def _current_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  # a worker may be started long after its server, and somewhere else
    except OSError:
        return "."


class _Server:
    """The process that forks workers: a copy of this one, which has threads, might hang."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        try:
            with theirs, stopping_signals_blocked():  # they stay blocked through fork and exec
                self._process = subprocess.Popen(
                    _program("fork_server", "serve_forks", theirs.fileno(), list(modules)),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=os.environ | _ONE_THREAD,
                )
        except BaseException:
            self._control.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it is this process's, and still runs."""
        return self._process.poll() is None

    def order(self, action: bytes, pid: int = 0, descriptor: int | None = None) -> int:
        """Its answer to an order; OSError where it is gone."""
        with self._lock:
            message = ORDER.pack(action, pid)
            if sys.platform != "win32" and descriptor is not None:
                socket.send_fds(self._control, [message], [descriptor])
            else:
                self._control.sendall(message)
            reply = self._control.recv(REPLY.size, socket.MSG_WAITALL)
        if len(reply) < REPLY.size:
            raise BrokenPipeError
        return int(REPLY.unpack(reply)[0])

    def kill(self) -> None:
        """End it at once: by itself it would notice only when it has imported all modules."""
        self._process.kill()
        self._process.wait()
        self._control.close()


_servers: dict[int, _Server] = {}  # keyed by the process that started it: a fork needs its own
_servers_lock = threading.Lock()
_is_ending = False


def _server(modules: Sequence[str]) -> _Server:
    """This process's server, started if there is none any more."""
    with _servers_lock:
        if _is_ending:
            raise ConnectionError("the program is ending")
        known = _servers.get(os.getpid())
        if known is not None and known.is_alive:
            return known
        if known is None:
            atexit.register(_end_server)
        else:
            known.kill()
        _servers[os.getpid()] = _Server(modules)
        return _servers[os.getpid()]


def _end_server() -> None:
    """When this process ends."""
    global _is_ending  # noqa: PLW0603
    _is_ending = True
    server = _servers.get(os.getpid())
    if server is not None:
        server.kill()
