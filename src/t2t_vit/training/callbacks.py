"""Callbacks: they are called at each step, evaluation and epoch of a run, and never change it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.out_of_memory import is_out_of_memory
from t2t_vit.training.signals import Stopped
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


class Callback:
    """Something that follows a run. Each method does nothing here."""

    def on_step(self, state: State, metrics: StepMetrics, /) -> None:
        """After each update. Reading a tensor of `metrics` waits for the device: do it seldom."""

    def on_evaluated(self, weights: str, done: int, batches: int, /) -> None:
        """After each batch of an evaluation: `done` of `batches` are, with the weights of that name."""

    def on_epoch(self, state: State, /) -> None:
        """After each epoch, and where the run ends inside one; `state.results` is fresh if `state.evaluated`."""

    def on_end(self, state: State, /) -> None:
        """After the last epoch, when the run came to its end."""

    def on_stop(self, state: State, whole: bool, /) -> None:
        """When the run ended early: by a mistake of the user's or a signal; `whole` unless it is amid an update."""

    def state_dict(self) -> dict[str, Any]:
        """What a continued run has to know, as tensors and plain values without times; it is in every checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continue from `state_dict()`."""

    def close(self) -> None:
        """Whatever ended the run: let go of files and the terminal."""


class Callbacks(Callback):
    """Several callbacks as one, called in their order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def on_step(self, state: State, metrics: StepMetrics, /) -> None:
        for callback in self._callbacks:
            callback.on_step(state, metrics)

    def on_evaluated(self, weights: str, done: int, batches: int, /) -> None:
        for callback in self._callbacks:
            callback.on_evaluated(weights, done, batches)

    def on_epoch(self, state: State, /) -> None:
        for callback in self._callbacks:
            callback.on_epoch(state)

    def on_end(self, state: State, /) -> None:
        for callback in self._callbacks:
            callback.on_end(state)

    def on_stop(self, state: State, whole: bool, /) -> None:
        for callback in self._callbacks:
            callback.on_stop(state, whole)

    @contextmanager
    def attending(self, state: State) -> Iterator[None]:
        """Around a run: calls `on_stop` when it is stopped, and closes the callbacks however it ends."""
        try:
            yield
        except (KeyboardInterrupt, Stopped, UserError) as error:
            self.on_stop(state, isinstance(error, UserError) or (isinstance(error, Stopped) and error.whole))
            raise
        except Exception as error:
            if is_out_of_memory(error):  # in the middle of an update, which is then lost
                self.on_stop(state, False)
            raise
        finally:
            self.close()

    def close(self) -> None:
        with ExitStack() as stack:  # each is closed, even if closing another fails
            for callback in reversed(self._callbacks):
                stack.callback(callback.close)
