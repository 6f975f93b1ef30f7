"""The process that forks workers on request: a copy of the main one, which has threads, might hang (Linux).

See `workers.py` for who gives the orders, and `worker.py` for what a worker does.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from t2t_vit.data.worker import FORK, GRACE, ORDER, REPLY, UNKNOWN, import_all, receive, work

assert sys.platform != "win32"  # for mypy; see platforms.can_fork_workers


def serve_forks(descriptor: int, modules: Sequence[str]) -> None:
    """The program of the process that forks workers: obeys orders until the main process closes the connection.

    It imports `modules` once for all of them, and has no thread, so that its copies cannot hang in a lock.
    """
    control = socket.socket(fileno=descriptor)
    ended: dict[int, int] = {}  # workers that ended unexpectedly, and how
    import_all(modules)
    with suppress(ConnectionError):  # the main process was killed before it read the last answer
        while True:
            order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 1)
            if not order:
                break
            action, pid = ORDER.unpack(order)
            _collect(ended)
            if action == FORK:
                pid = _fork(control, descriptors[0])
                ended.pop(pid, None)  # an old worker with the same number
                control.sendall(REPLY.pack(pid))
            else:
                code = ended.pop(pid) if pid in ended else _end(pid)
                control.sendall(REPLY.pack(code))
    os._exit(0)


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
        connection = socket.socket(fileno=descriptor)
        threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
        work(connection, partial(receive, connection))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _end(pid: int) -> int:
    """How a worker ended whose connection is closed; it is killed where it has not after some time."""
    deadline = time.monotonic() + GRACE
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


def _end_with_parent(connection: socket.socket) -> None:
    """Ends this process as soon as the other side of the connection has gone, in the middle of whatever it does."""
    watch = select.poll()
    watch.register(connection, 0)  # only its closing is reported
    watch.poll()
    os._exit(0)
