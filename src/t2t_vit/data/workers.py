"""Worker processes that read batches ahead, and what their death means."""

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from t2t_vit.data.samples import Request, Samples
from t2t_vit.errors import UserError

_AHEAD = 2  # batches that each worker reads ahead


def reader(
    dataset: Dataset[Samples], requests: Iterable[Request], workers: int, device: torch.device, modules: list[str]
) -> "DataLoader[Samples]":
    """A loader that answers each request with its samples, in order, in this process or in `workers` others.

    The workers are started by a fork server, which is safe where this process has threads (a forked copy of them may
    hang), and which imports `modules` once for all of them. They stay for the next epoch.
    """
    context = None
    if workers > 0:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(modules)
    return DataLoader(
        dataset,
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=workers > 0,
        prefetch_factor=_AHEAD if workers > 0 else None,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start,
        generator=torch.Generator(),  # torch draws a seed an epoch: not from the global generator
    )


def usable_workers(wanted: int) -> int:
    """No more processes than there are cores for this one to run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, cores)


def answers(loader: "DataLoader[Samples]") -> Iterator[Samples]:
    """One pass over the loader; UserError where a worker dies."""
    try:
        yield from loader
    except (RuntimeError, EOFError, OSError) as error:
        explained = dead_worker(error)
        if explained is None:
            raise
        raise explained from error


def dead_worker(error: Exception) -> UserError | None:
    """What to tell the user where `error` stands for a dead worker; None where it does not.

    torch reports it from a signal handler, so it may also surface within the training step; or a pipe to it breaks.
    """
    reported = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")
    broken = isinstance(error, EOFError | ConnectionError | FileNotFoundError) and "Caught" not in str(error)
    if not (reported or broken):
        return None
    return UserError(
        "a data worker process was killed, most often for want of memory or of shared memory (/dev/shm);"
        " choose fewer num_parallel_workers (0 reads in the main process) or a smaller batch_size"
    )


def _as_it_is(samples: Any) -> Any:
    return samples


def _start(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process ends the workers
    torch.set_num_threads(1)
