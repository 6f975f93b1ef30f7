"""Sources -> prepared images, ahead of use: in threads of this process, or in processes whose death costs one image."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from t2t_vit.data.decode import DecodeError, decode
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.decoder import NO_MEMORY, PIXELS, serve

Source = str | bytes  # a path, or an encoded image
Task = tuple[Source, Future[Tensor]]

_THREADS = 2
_GROUP = 8  # sources that are handed over at once: a process that is woken for each of them waits more than it works
_LARGE = 4 * 2**20  # bytes of encoded images that are handed over, however few they are, and waited for
_ATTEMPTS = 2  # a process may be killed for the memory that another one took


class Readers:
    """Decodes in `workers` processes, or, of 0, in threads of this one. Not for several threads to ask at once."""

    def __init__(self, preprocessing: Preprocessing, workers: int = 0) -> None:
        self._preprocessing = preprocessing
        self._threads = ThreadPoolExecutor(max(workers, _THREADS))
        self._processes = _Processes(preprocessing, workers) if workers > 0 else None
        self._group: list[Task] = []
        self.ahead = _GROUP * max(workers, _THREADS)  # sources that keep all of them busy

    def read(self, source: Source) -> Future[Tensor]:
        """The image, prepared: uint8 (in_chans, height, width), or DecodeError; after `flush` at the latest."""
        image: Future[Tensor] = Future()
        self._group.append((source, image))
        held = sum(len(source) for source, _ in self._group if isinstance(source, bytes))
        if len(self._group) == _GROUP or held > _LARGE:
            self.flush()
        if held > _LARGE:
            image.exception()  # many large ones at once would fill the memory
        return image

    def flush(self, *, alone: bool = False) -> None:
        """Hand over what was asked for; `alone` in this process, since for one image none is started."""
        group, self._group = self._group, []
        if group:
            here = alone or self._processes is None
            self._threads.submit(_settled, self._here if here else self._processes.read, group)  # type: ignore[union-attr]

    def close(self) -> None:
        """Stop all work; what is being decoded is given up."""
        if self._processes is not None:
            self._processes.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _here(self, tasks: deque[Task]) -> None:
        while tasks:
            source, image = tasks[0]
            try:
                image.set_result(self._preprocessing(decode(source, self._preprocessing.mode)))
            except DecodeError as error:
                image.set_exception(error)
            except MemoryError:
                image.set_exception(DecodeError(NO_MEMORY))
            tasks.popleft()


def usable_workers(wanted: int) -> int:
    """As many as are wanted, but one core is left to the network, and one process reads even where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, max(1, cores - 1))


def _settled(work: Callable[[deque[Task]], None], group: list[Task]) -> None:
    """Do the tasks; whatever happens, nobody waits for one for ever."""
    tasks = deque(group)
    try:
        work(tasks)
    except BaseException as error:  # ours: raised where the image is asked for
        for _, image in tasks:
            image.set_exception(error)


class _Processes:
    """Decoding processes; each has a pipe of its own and answers in order, so one that dies shows at which image."""

    def __init__(self, preprocessing: Preprocessing, count: int) -> None:
        self._preprocessing = preprocessing
        # Forked from a small server process: a copy of this one, which has threads, might hang.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["t2t_vit.inference.decoder"])
        self._idle: SimpleQueue[tuple[BaseProcess, Connection] | None] = SimpleQueue()
        for _ in range(count):
            self._idle.put(None)
        self._started: set[BaseProcess] = set()
        self._lock = Lock()
        self._closed = False

    def read(self, tasks: deque[Task]) -> None:
        """Settle all tasks. One at which processes died as often as is allowed is a bad image; the rest goes on."""
        deaths = 0
        while tasks:
            before = len(tasks)
            self._ask(tasks)
            deaths = deaths + 1 if len(tasks) == before else 1
            if tasks and deaths == _ATTEMPTS:
                _, image = tasks.popleft()
                image.set_exception(DecodeError("the process that decoded it was killed, often for want of memory"))
                deaths = 0

    def close(self) -> None:
        """Kill them."""
        with self._lock:
            self._closed = True
            started = list(self._started)
        for process in started:
            process.kill()
        for process in started:
            process.join()

    def _ask(self, tasks: deque[Task]) -> None:
        """Take the tasks from the left as a process answers; those that it died over are left."""
        idle = self._idle.get()
        try:
            idle = idle or self._start()
            process, connection = idle
            connection.send([source for source, _ in tasks])
            while tasks:
                answer = connection.recv_bytes()
                self._settle(tasks[0][1], answer)
                tasks.popleft()
        except (EOFError, OSError):
            if idle is not None:
                process.join()
                connection.close()
                with self._lock:
                    self._started.discard(process)
            idle = None
        finally:
            self._idle.put(idle)

    def _settle(self, image: Future[Tensor], answer: bytes) -> None:
        if answer[:1] != PIXELS:
            image.set_exception(DecodeError(answer[1:].decode()))
            return
        height, width = self._preprocessing.image_size
        pixels = np.frombuffer(bytearray(answer), dtype=np.uint8, offset=1)
        image.set_result(torch.from_numpy(pixels).view(self._preprocessing.in_chans, height, width))

    def _start(self) -> tuple[BaseProcess, Connection]:
        with self._lock:
            if self._closed:
                raise EOFError
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=serve, args=(theirs, self._preprocessing), daemon=True)
            process.start()
            theirs.close()
            self._started.add(process)
        try:
            ours.recv_bytes()  # it says that it is there: what kills it from now on is an image
        except EOFError as error:
            if self._closed:
                raise
            raise UserError("decoding processes cannot be started here; --workers 0 does without") from error
        return process, ours
