"""Signals that ask to stop: how they are heard, and how a run obeys them after the present step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol, TypeVar

from t2t_vit.errors import UserError
from t2t_vit.platforms import IGNORABLE, STOPPING, signal_name

Item = TypeVar("Item", covariant=True)


class Stopped(SystemExit):
    """A signal ended the command; the exit code is 128 and the signal's number, as shells have it: SIGTERM gives 143.

    whole: whether it came between two updates, so that what is in memory can be saved.
    """

    def __init__(self, number: int, *, whole: bool = False) -> None:
        super().__init__(128 + number)
        self.name = signal_name(number)
        self.whole = whole


class Stepping(Protocol):
    """What knows how many updates are made; see `state.State`, which needs torch."""

    step: int


class Counted(Protocol[Item]):
    """Things to go through whose number is known."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Item]: ...


@contextmanager
def heard(hear: Callable[[int], None]) -> Iterator[None]:
    """Within, `hear` gets the number of each signal that asks to stop, between two instructions of the main thread.

    SIGINT and SIGHUP that were ignored before, as for a background job and by nohup, stay so. Signals belong to the
    main thread: in another one nothing happens here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN or number not in IGNORABLE:
            signal.signal(number, lambda heard, _: hear(heard))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def stop_at_once(number: int) -> NoReturn:
    """End the command where it is."""
    deafen()
    raise Stopped(number)


def deafen() -> None:
    """The command is ending: a signal that comes again, as from torchrun, changes nothing, but Ctrl-C hurries it."""
    for number in STOPPING if threading.current_thread() is threading.main_thread() else ():
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_IGN)


class Agrees(Protocol):
    """How several processes come to stop after the same step; see `distributed.StopAgreement`."""

    def turn(self, number: int, /) -> int: ...
    def largest(self, number: int, /) -> int: ...
    def finish(self) -> None: ...
    def meet(self) -> None: ...


def _never() -> bool:
    return False


class Stop:
    """The request to stop: a signal makes it at any moment, `check` obeys it where nothing gets lost.

    Before the first update of this run there is nothing to lose, and compiling takes minutes: one process alone then
    stops at once. A second Ctrl-C is a KeyboardInterrupt at once; of several processes the third, since torchrun
    repeats what the terminal has sent already.

    Args:
        agreement: where there are several processes.
        time_is_up: whether the run has taken as long as it may; asked at each `check`. What one process says holds
            for all.

    Attributes:
        is_time_up: what `check` found out, in all processes at the same call. It raises nothing: such a run ends well.
    """

    def __init__(self, agreement: Agrees | None = None, time_is_up: Callable[[], bool] = _never) -> None:
        self.requested = 0  # the signal's number
        self.is_time_up = False
        self._time_is_up = time_is_up
        self._agreement = agreement
        self._interrupts = 0
        self._state: Stepping | None = None
        self._first = 0

    @contextmanager
    def during(self, state: Stepping) -> Iterator[None]:
        """Listen while `state` makes its way; a Stopped that leaves here is past the last process's work.

        Raises:
            Stopped: also in place of an error that comes after the signal, which ended a compiler, say, or a neighbour.
        """
        self._state, self._first = state, state.step
        try:
            with heard(self.request):
                yield
            self._finish()
        except Stopped as stopped:
            self._part(stopped)
            raise
        except UserError:
            raise
        except Exception as error:
            if not self.requested:
                raise
            deafen()
            raise Stopped(self.requested) from error

    def request(self, number: int) -> None:
        """What a signal's handler does."""
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > (1 if self._agreement is None else 2):
                raise KeyboardInterrupt
        if self.requested:
            return
        self.requested = number
        if self._agreement is None and self._state is not None and self._state.step == self._first:
            raise Stopped(number)

    def check(self) -> None:
        """Raise Stopped where a signal asked for it: several processes all at the same call, at most one later."""
        # One number for all processes: twice the signal, plus one if the time is up.
        own = 2 * self.requested + self._time_is_up()
        number, time_is_up = divmod(own if self._agreement is None else self._agreement.turn(own), 2)
        if number:
            raise Stopped(number, whole=True)
        self.is_time_up = self.is_time_up or bool(time_is_up)

    def watch(self, batches: Counted[Item]) -> Iterator[Item]:
        """`batches`, broken off by `check`: in all processes after the same number, though some give fewer."""
        rounds = len(batches) if self._agreement is None else self._agreement.largest(len(batches))
        given = 0
        for batch in batches:
            self.check()
            given += 1
            yield batch
        for _ in range(rounds - given if self._agreement is not None else 0):
            self.check()

    def _finish(self) -> None:
        if self._agreement is not None:
            self._agreement.finish()

    def _part(self, stopped: Stopped) -> None:
        deafen()
        if self._agreement is not None and stopped.whole:
            self._agreement.meet()  # if one left early, the others would be killed while they save
