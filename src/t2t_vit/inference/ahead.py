"""Things made ahead of use by a thread of their own."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Iterates over `things`, of which a thread makes up to `count` before they are asked for.

    An exception of theirs is raised where the thing would have stood. After `close` the thread ends once it has the
    next thing; it is not waited for, since that may be the next line that somebody types.
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
