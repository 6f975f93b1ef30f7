"""The other side of `workers.py`: a process that forks workers on request, what a worker does, and the messages.

A message is a pickled object; its arrays follow as they are, so that neither side copies them into the pickle. No
torch is imported here: a worker that needs none starts in a moment and takes little memory.
"""

import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

FORK, REAP = b"f", b"r"
ORDER = struct.Struct("<cq")  # what to do, and with which process
REPLY = struct.Struct("<q")  # a process number, or how a process ended as `os.waitstatus_to_exitcode` gives it
UNKNOWN = -(2**31)  # how a process ended that is not this one's child
_COUNT, _SIZE = struct.Struct("<I"), struct.Struct("<Q")
_GRACE = 1.0  # seconds that a worker has to end by itself


def send(connection: socket.socket, message: object) -> None:
    """Hand over `message`; blocks until the other side has read most of it."""
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    parts = [array.raw() for array in arrays]
    sizes = [len(content), *(len(part) for part in parts)]
    connection.sendall(b"".join([_COUNT.pack(len(sizes)), *map(_SIZE.pack, sizes), content]))
    for part in parts:
        connection.sendall(part)


def receive(connection: socket.socket) -> Any:
    """The next message; EOFError or OSError where there is none any more."""
    (count,) = _COUNT.unpack(_read(connection, _COUNT.size))
    sizes = [size for (size,) in _SIZE.iter_unpack(_read(connection, count * _SIZE.size))]
    content, *arrays = [_read(connection, size) for size in sizes]
    return pickle.loads(content, buffers=arrays)


def _read(connection: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        count = connection.recv_into(view, len(view), socket.MSG_WAITALL)
        if count == 0:
            raise EOFError("the connection was closed")
        view = view[count:]
    return content


def serve_forks(descriptor: int, modules: Sequence[str]) -> None:
    """The program of the process that forks workers: obeys orders until the main process closes the connection.

    It imports `modules` once for all of them, and has no thread, so that its copies cannot hang in a lock.
    """
    control = socket.socket(fileno=descriptor)
    ended: dict[int, int] = {}  # workers that ended unasked, and how
    for name in modules:
        with suppress(Exception):  # the worker that needs it says what is wrong
            import_module(name)
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 1)
        if not order:
            os._exit(0)
        action, pid = ORDER.unpack(order)
        _collect(ended)
        if action == FORK:
            pid = _fork(control, descriptors[0])
            ended.pop(pid, None)  # an old one of the same number
            control.sendall(REPLY.pack(pid))
        else:
            code = ended.pop(pid) if pid in ended else _end(pid)
            control.sendall(REPLY.pack(code))


def _collect(ended: dict[int, int]) -> None:
    """Enter the children that have ended; until then each would stay as an entry in the system's table."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])


def _fork(control: socket.socket, descriptor: int) -> int:
    """The new process's number, or minus the number of the error."""
    try:
        pid = os.fork()
    except OSError as error:
        os.close(descriptor)
        return -(error.errno or 1)
    if pid:
        os.close(descriptor)
        return pid
    try:
        control.close()
        _work(socket.socket(fileno=descriptor))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _end(pid: int) -> int:
    """How a worker ended whose connection is closed; it is killed where it has not after some time."""
    deadline = time.monotonic() + _GRACE
    try:
        while time.monotonic() < deadline:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except (ChildProcessError, ProcessLookupError):
        return UNKNOWN


def _work(connection: socket.socket) -> None:
    """A worker's life: says whether it is ready, then answers each thing of each message until the connection ends.

    Answers are (True, what was computed) or (False, the exception).
    """
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    with suppress(EOFError, OSError):  # the main process has gone, which is the usual end
        answer: Callable[[Any], Any] | None = None
        try:
            folder, program = receive(connection)
            with suppress(OSError):
                os.chdir(folder)
            answer = pickle.loads(program)
        except (EOFError, OSError):
            raise
        except BaseException as error:
            _send_failure(connection, error)
            return
        send(connection, (True, None))
        while True:
            for thing in receive(connection):
                _answer(connection, answer, thing)


def _answer(connection: socket.socket, answer: Callable[[Any], Any], thing: object) -> None:
    try:
        message = (True, answer(thing))
    except BaseException as error:
        _send_failure(connection, error)
        return
    try:
        send(connection, message)
    except (EOFError, OSError):
        raise
    except BaseException as error:  # nothing has been sent where it cannot be pickled
        _send_failure(connection, error)


def _send_failure(connection: socket.socket, error: BaseException) -> None:
    """The exception itself, with where it was raised as a note; its text where it cannot travel."""
    where = "".join(traceback.format_exception(error))
    try:
        error.add_note(f"in a worker process:\n{where}")
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"in a worker process:\n{where}")
    send(connection, (False, error))


def _end_with_parent(connection: socket.socket) -> None:
    """Ends this process as soon as the other side of the connection has gone, in the middle of whatever it does."""
    watch = select.poll()
    watch.register(connection, 0)  # only that it is closed is reported
    watch.poll()
    os._exit(0)
