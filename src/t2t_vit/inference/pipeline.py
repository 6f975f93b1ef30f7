"""Predictions of any number of images, in order, bad ones included: reading, decoding and computing overlap."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from queue import Empty, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from t2t_vit.inference.item import NOT_FINITE, ImageResult, Item, Prediction, Stamp, UnreadableError
from t2t_vit.inference.readers import Decoding, Readers

if TYPE_CHECKING:
    from t2t_vit.inference.predictor import Predictor

T = TypeVar("T")


@dataclass(frozen=True)
class Answered:
    """A result, with the stamp that its image had before it was read, and whether it was known before this run."""

    result: ImageResult
    stamp: Stamp | None = None
    recalled: bool = False


Recall = Callable[[str, Stamp | None], ImageResult | None]


def answer_batches(
    predictor: "Predictor",
    items: Iterable[Item],
    readers: Readers,
    *,
    top_k: int = 1,
    batch_size: int,
    recall: Recall = lambda _path, _stamp: None,
) -> Iterator[list[Answered]]:
    """The answers to `items`, in order, `batch_size` at a time.

    A thread asks for the items, reads what lies in archives, and has the images decoded, some batches ahead. Batches
    are cut by position, not by what is readable or known, so that a run that is continued computes in the same ones.

    Args:
        recall: the result that is known already of a path and its stamp, or None. Called in order, by that thread.
    """
    started = _started(items, readers, batch_size, recall)
    with closing(Prefetched(started, 1 + -(-readers.ahead // batch_size))) as ahead:
        yield from _in_turn(predictor, ahead, top_k)


@dataclass(frozen=True)
class _Pending:
    item: Item
    stamp: Stamp | None
    known: ImageResult | None = None
    image: Future[Decoding] | None = None
    reason: str = ""


def _started(items: Iterable[Item], readers: Readers, batch_size: int, recall: Recall) -> Iterator[list[_Pending]]:
    """Batches of items whose images are being decoded."""
    waiting, first = iter(items), True
    while batch := [_start(item, readers, recall) for item in islice(waiting, batch_size)]:
        readers.flush(alone=first and len(batch) == 1)
        first = False
        yield batch


def _start(item: Item, readers: Readers, recall: Recall) -> _Pending:
    stamp = None if item.reason else item.stamp()
    known = recall(item.path, stamp)
    if known is not None:
        return _Pending(item, stamp, known)
    if item.reason:
        return _Pending(item, None, ImageResult(item.path, reason=item.reason))
    try:
        source = item.path if item.content is None else item.content()
    except UnreadableError as error:
        return _Pending(item, stamp, reason=str(error))
    return _Pending(item, stamp, None, readers.read(source))


Batch = Sequence[_Pending]


def _in_turn(predictor: "Predictor", batches: "Prefetched[list[_Pending]]", top_k: int) -> Iterator[list[Answered]]:
    """Where the device works by itself it is given the next batch before the answers to this one are taken and written,
    unless the next one is still to come: nobody who types a path at a time waits for the path after it."""
    begun: _Begun | None = None
    for batch in batches:
        following = _Begun(predictor, batch)
        if begun is not None:
            yield begun.answers(top_k)
        begun = following
        if not (predictor.is_asynchronous and batches.has_one):
            yield begun.answers(top_k)
            begun = None
    if begun is not None:
        yield begun.answers(top_k)


class _Begun:
    """A batch that is being computed."""

    def __init__(self, predictor: "Predictor", batch: Batch) -> None:
        images: dict[int, Tensor] = {}
        self._reasons = {place: pending.reason for place, pending in enumerate(batch)}
        for place, pending in enumerate(batch):
            if pending.image is not None:
                decoded = pending.image.result()
                if isinstance(decoded, str):
                    self._reasons[place] = decoded
                else:
                    images[place] = decoded
        self._predictor, self._batch, self._places = predictor, batch, list(images)
        self._logits = predictor.begin(torch.stack(list(images.values()))) if images else None

    def answers(self, top_k: int) -> list[Answered]:
        """Waits for the logits."""
        ranked = self._predictor.ranked(self._logits(), top_k) if self._logits is not None else []
        found = dict(zip(self._places, ranked, strict=True))
        answers = []
        for place, pending in enumerate(self._batch):
            if pending.known is not None:
                answers.append(Answered(pending.known, pending.stamp, recalled=bool(pending.stamp)))
            else:
                result = _result(pending.item.path, found.get(place, ()), self._reasons[place])
                answers.append(Answered(result, pending.stamp))
        return answers


def _result(path: str, predictions: tuple[Prediction, ...], reason: str) -> ImageResult:
    if predictions and not all(isfinite(prediction.probability) for prediction in predictions):
        return ImageResult(path, reason=NOT_FINITE)
    return ImageResult(path, predictions, reason)


class Prefetched(Generic[T]):
    """Iterates over `things`, of which a thread makes up to `count` before they are asked for.

    Where making a thing fails, its exception is raised in its place. After `close` the thread ends once it has the
    next thing; nobody waits for that, since it may be the next line that somebody types.
    """

    def __init__(self, things: Iterable[T], count: int) -> None:
        self._made: Queue[tuple[T] | BaseException | None] = Queue(count)
        self._closed = Event()
        Thread(target=self._make, args=(things,), daemon=True).start()

    def __iter__(self) -> Iterator[T]:
        while (made := self._made.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made[0]

    @property
    def has_one(self) -> bool:
        """Whether the next thing, or the end, is there already."""
        return not self._made.empty()

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()
        with suppress(Empty):  # it may wait for room
            while True:
                self._made.get_nowait()

    def _make(self, things: Iterable[T]) -> None:
        try:
            for thing in things:
                self._made.put((thing,))
                if self._closed.is_set():
                    return
            self._made.put(None)
        except BaseException as error:  # for the one who waits
            self._made.put(error)
