"""Sources -> prepared images, ahead of use: in threads of this process, or in processes whose death costs one image."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pickle import PickleBuffer
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.samples import Decoded
from t2t_vit.data.workers import Pool, WorkerDiedError, WorkerSilentError, WorkersUnavailableError
from t2t_vit.errors import UserError
from t2t_vit.platforms import usable_cores
from t2t_vit.settings.schema import Config

Source = str | bytes  # a path, or an encoded image
Decoding = Tensor | str  # an image, prepared, or the reason why there is none

_THREADS = 2
_GROUP = 8  # sources per request: waking a process for each one would cost more than the work
_LARGE = 4 * 2**20  # most bytes of encoded images per request
_MOST_BYTES = 64 * 2**20  # most bytes of encoded images in memory; a single image may have more
_ATTEMPTS = 2  # a process may be killed because another one used the memory


class Readers:
    """Decodes in `workers` processes, or, of 0, in threads of this one. Not for several threads to ask at once.

    Args:
        max_pixels: of the largest image, see `PixelBudget`.
    """

    def __init__(self, preprocessing: Preprocessing, workers: int = 0, *, max_pixels: int = Config.max_pixels) -> None:
        self._decoded = Decoded(preprocessing, PixelBudget(max_pixels))
        self._threads = ThreadPoolExecutor(_THREADS)
        self._pool: Pool[Source | memoryview, Decoding] | None = None
        if workers > 0:
            self._pool = Pool(self._decoded, workers, [Decoded.__module__], _arrived, attempts=_ATTEMPTS)
        self._group: list[tuple[Source, Future[Decoding]]] = []
        self._held: deque[tuple[int, Future[Decoding]]] = deque()  # bytes of images that may not be decoded yet
        self.ahead = _GROUP * max(workers, _THREADS)  # number of sources that keeps all workers busy

    def read(self, source: Source) -> "Future[Decoding]":
        """The image, prepared: uint8 (in_chans, height, width), or why there is none; after `flush` at the latest."""
        image: Future[Decoding] = Future()
        self._group.append((source, image))
        if isinstance(source, bytes):
            self._held.append((len(source), image))
        grouped = sum(len(source) for source, _ in self._group if isinstance(source, bytes))
        if len(self._group) == _GROUP or grouped > _LARGE:
            self.flush()
        self._wait()
        return image

    def _wait(self) -> None:
        """Until no more than `_MOST_BYTES` of encoded images are held: many large ones would fill the memory."""
        while self._held and self._held[0][1].done():  # it holds the decoded image, too
            self._held.popleft()
        held = sum(size for size, _ in self._held)
        while held > _MOST_BYTES:
            self.flush()
            size, image = self._held.popleft()
            image.exception()
            held -= size

    def flush(self, *, alone: bool = False) -> None:
        """Hand over what was asked for; `alone` in this process, since for one image none is started."""
        group, self._group = self._group, []
        if self._pool is None or alone:
            answers = [self._threads.submit(self._here, source) for source, _ in group]
        else:
            answers = self._pool.submit([_uncopied(source) for source, _ in group])
        for (_, image), answer in zip(group, answers, strict=True):
            answer.add_done_callback(partial(_hand_on, image))

    def close(self) -> None:
        """Stop all work; what is being decoded is given up."""
        if self._pool is not None:
            self._pool.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _here(self, source: Source) -> Decoding:
        return _arrived(self._decoded(source))


def usable_workers(wanted: int) -> int:
    """As many as are wanted, but one core is left to the network, and one process reads even where there is one."""
    return min(wanted, max(1, usable_cores() - 1))


def _uncopied(source: Source) -> Source | memoryview:
    """Bytes in the form in which they travel beside a pickle, not copied into it; they arrive as a memoryview."""
    return cast(memoryview, PickleBuffer(source)) if isinstance(source, bytes) else source


def _arrived(decoded: NDArray[np.uint8] | str) -> Decoding:
    return decoded if isinstance(decoded, str) else torch.from_numpy(decoded)


def _hand_on(image: "Future[Decoding]", answer: "Future[Decoding]") -> None:
    """Settle `image` as `answer` is; what is wrong with an image, or kills a process, is the image's fault alone."""
    try:
        image.set_result(answer.result())
    except MemoryError:
        image.set_result("it does not fit into memory")
    except WorkerSilentError as error:
        image.set_result(f"the process that decoded it {error}")
    except WorkerDiedError:
        image.set_result("the process that decoded it was killed, often for lack of memory")
    except WorkersUnavailableError as error:
        image.set_exception(
            UserError(f"decoding processes cannot be started here ({error}); --workers 0 decodes without them")
        )
    except BaseException as error:  # our own bug: raised where the image is requested
        image.set_exception(error)
