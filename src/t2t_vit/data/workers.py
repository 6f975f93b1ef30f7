"""Worker processes that read batches ahead, and what their death means."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running as ensure_server
from multiprocessing.popen_forkserver import Popen
from multiprocessing.process import parent_process
from multiprocessing.resource_tracker import ensure_running as ensure_tracker
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from t2t_vit.data.samples import Request, Samples
from t2t_vit.errors import UserError

_AHEAD = 2  # batches that each worker reads ahead
_GRACE = 1.0  # seconds that a worker has to end by itself
# What reaches every process of a group, from a terminal, a scheduler or a container's end: the main process decides.
_OF_THE_GROUP = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP}


class Handle(Popen):
    """How a worker is ended: signals to its group do not reach it, and SIGTERM is one of them."""

    def terminate(self) -> None:
        """End it at once."""
        self.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end, which torch has asked for; what one still reads or imports is not worth waiting for."""
        code = super().wait(timeout and min(timeout, _GRACE))
        if code is None and timeout:
            self.kill()
            code = super().wait(timeout)
        return code


class Worker(ForkServerProcess):
    """A worker process."""

    _Popen = Handle


class Workers(ForkServerContext):
    """What starts worker processes."""

    Process = Worker


def reader(
    dataset: Dataset[Samples], requests: Iterable[Request], workers: int, device: torch.device, modules: list[str]
) -> "DataLoader[Samples]":
    """A loader that answers each request with its samples, in order, in this process or in `workers` others.

    The workers are started by a fork server, which is safe where this process has threads (a forked copy of them may
    hang), and which imports `modules` once for all of them. They stay for the next epoch.
    """
    if workers > 0:
        start_server(modules)
    return DataLoader(
        dataset,
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=Workers() if workers > 0 else None,
        persistent_workers=workers > 0,
        prefetch_factor=_AHEAD if workers > 0 else None,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start,
        generator=torch.Generator(),  # torch draws a seed an epoch: not from the global generator
    )


def start_server(modules: list[str]) -> None:
    """Start the fork server, if it does not run yet, deaf to signals of the group from its first instruction on.

    A blocked signal stays blocked through fork and exec, so the server, its workers and Python's resource tracker need
    no handlers, which would come too late: importing `modules` takes seconds. A signal that comes here meanwhile waits.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
    with _signals_wait():
        ensure_tracker()  # by itself it unblocks SIGINT and SIGTERM, so it comes before
        signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)
        ensure_server()
    atexit.register(_end_server)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Until the end of the block, and beyond it for processes that are started in it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_server() -> None:
    """When this process ends: by itself the server would notice only when it has imported all modules."""
    pid = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if pid is not None:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def usable_workers(wanted: int) -> int:
    """No more processes than there are cores for this one to run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, cores)


def answers(loader: "DataLoader[Samples]") -> Iterator[Samples]:
    """One pass over the loader; UserError where a worker dies."""
    try:
        with _signals_wait():  # a worker that is half started would complain
            batches = iter(loader)
        yield from batches
    except (RuntimeError, EOFError, OSError) as error:
        workers: list[Worker] = getattr(getattr(loader, "_iterator", None), "_workers", [])
        wait([worker.sentinel for worker in workers], _GRACE)  # a broken pipe is known before the exit code is
        explained = dead_worker(error, [worker.exitcode for worker in workers])
        if explained is None:
            raise
        raise explained from error


def dead_worker(error: Exception, exit_codes: Iterable[int | None] = ()) -> UserError | None:
    """What to tell the user where `error` stands for a dead worker; None where it does not.

    torch notices it when the next batch does not come; or a pipe to the worker breaks.

    Args:
        exit_codes: of the workers, as far as they have ended; a signal is negative.
    """
    reported = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")
    broken = isinstance(error, EOFError | ConnectionError | FileNotFoundError) and "Caught" not in str(error)
    if not (reported or broken):
        return None
    code = next((code for code in exit_codes if code), None)
    if code is None:
        how, why = "was killed", "want of memory or of shared memory (/dev/shm)"
    elif code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        why = "want of shared memory (/dev/shm)" if -code == signal.SIGBUS else "want of memory"
    else:
        how, why = f"ended with exit code {code}", "want of memory"
    return UserError(
        f"a data worker process {how}, most often for {why};"
        " choose fewer num_parallel_workers (0 reads in the main process) or a smaller batch_size"
    )


def _as_it_is(samples: Any) -> Any:
    return samples


def _start(_: int) -> None:
    """In a worker, before its first batch."""
    torch.set_num_threads(1)
    sys.excepthook = _end_quietly
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A hand-over that broke because the main process was killed in the middle of it is nobody's mistake to read of."""
    parent = parent_process()
    if parent is not None and isinstance(error, OSError | EOFError):
        parent.join(1.0)
        if not parent.is_alive():
            os._exit(0)
    sys.__excepthook__(kind, error, trace)


def _end_with_parent() -> None:
    """A main process that was killed tells nobody, and its workers would wait for requests for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)
