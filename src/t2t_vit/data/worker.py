"""What a worker process does, and the messages between it and `workers.py`.

It is forked by `fork_server.py`, and its connection is a socket; or it is a program of its own, with a pair of pipes.
A message is a pickled object; its arrays follow as they are, so that neither side copies them into the pickle. No
torch is imported here: a worker that needs none starts in a moment and takes little memory.
"""

import io
import os
import pickle
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from queue import SimpleQueue
from typing import IO, Any

FORK, REAP = b"f", b"r"
ORDER = struct.Struct("<cq")  # the request, and the process that it is for
REPLY = struct.Struct("<q")  # a process number, or how a process ended as `os.waitstatus_to_exitcode` gives it
UNKNOWN = -(2**31)  # the end of a process that is not a child of this one
GRACE = 1.0  # seconds for a worker to end by itself
_COUNT, _SIZE = struct.Struct("<I"), struct.Struct("<Q")


class Pipes:
    """Two pipes, unbuffered, with the methods of a socket that `send` and `receive` call."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def sendall(self, part: "bytes | memoryview") -> None:
        """Write all of it; BrokenPipeError where nobody reads any more."""
        view = memoryview(part).cast("B")
        try:
            while view:
                view = view[self._outgoing.write(view) :]
        except OSError as error:  # on Windows EINVAL
            raise BrokenPipeError(error.errno, error.strerror) from error

    def recv_into(self, view: memoryview, size: int, _flags: int = 0) -> int:
        """Read up to `size` bytes; how many, 0 at the end."""
        assert isinstance(self._incoming, io.RawIOBase)
        return self._incoming.readinto(view[:size]) or 0

    def close(self) -> None:
        """Let go of both."""
        for pipe in (self._outgoing, self._incoming):
            with suppress(OSError):
                pipe.close()


Connection = socket.socket | Pipes


def send(connection: Connection, message: object) -> None:
    """Hand over `message`; blocks until the other side has read most of it."""
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    parts = [array.raw() for array in arrays]
    sizes = [len(content), *(len(part) for part in parts)]
    connection.sendall(b"".join([_COUNT.pack(len(sizes)), *map(_SIZE.pack, sizes), content]))
    for part in parts:
        connection.sendall(part)


def receive(connection: Connection) -> Any:
    """The next message; EOFError or OSError where there is none any more."""
    (count,) = _COUNT.unpack(_read(connection, _COUNT.size))
    sizes = [size for (size,) in _SIZE.iter_unpack(_read(connection, count * _SIZE.size))]
    content, *arrays = [_read(connection, size) for size in sizes]
    return pickle.loads(content, buffers=arrays)


def _read(connection: Connection, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        count = connection.recv_into(view, len(view), socket.MSG_WAITALL)
        if count == 0:
            raise EOFError("the connection was closed")
        view = view[count:]
    return content


def work_on_pipes(modules: Sequence[str]) -> None:
    """The program of a worker that was not forked: its connection is what it has as standard input and output.

    Nothing that it prints may get among the messages, so both are others' from here on.
    """
    pipes = Pipes(open(os.dup(0), "rb", buffering=0), open(os.dup(1), "wb", buffering=0))  # noqa: PTH123, SIM115
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    import_all(modules)
    messages: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read_ahead, args=(pipes, messages), daemon=True).start()
    try:
        work(pipes, messages.get)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def import_all(modules: Sequence[str]) -> None:
    """Import them ahead of the work; of one that cannot be, opening the program that needs it says what is wrong."""
    for name in modules:
        with suppress(Exception):
            import_module(name)


def _read_ahead(pipes: Pipes, messages: "SimpleQueue[Any]") -> None:
    """Put each message into the queue; end this process, in the middle of whatever it does, when its parent is gone."""
    try:
        while True:
            messages.put(receive(pipes))
    except (EOFError, OSError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def work(connection: Connection, next_message: Callable[[], Any]) -> None:
    """A worker's life: says whether it is ready, then answers each thing of each message until the connection ends.

    Answers are (True, what was computed) or (False, the exception).
    """
    with suppress(EOFError, OSError):  # the main process has ended: the usual end
        answer: Callable[[Any], Any] | None = None
        try:
            folder, program = next_message()
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
            for thing in next_message():
                _answer(connection, answer, thing)


def _answer(connection: Connection, answer: Callable[[Any], Any], thing: object) -> None:
    try:
        message = (True, answer(thing))
    except BaseException as error:
        _send_failure(connection, error)
        return
    try:
        send(connection, message)
    except (EOFError, OSError):
        raise
    except BaseException as error:  # if pickling fails, nothing has been sent
        _send_failure(connection, error)


def _send_failure(connection: Connection, error: BaseException) -> None:
    """The exception itself, with where it was raised as a note; its text where it cannot travel."""
    where = "".join(traceback.format_exception(error))
    try:
        error.add_note(f"in a worker process:\n{where}")
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"in a worker process:\n{where}")
    send(connection, (False, error))
