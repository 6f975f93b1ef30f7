"""What may happen beside the training: a callback sees where the run is and never changes it."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from t2t_vit.errors import UserError
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


class Callback:
    """Something that follows a run. Each method does nothing here."""

    def on_step(self, state: State, metrics: StepMetrics, /) -> None:
        """After each update. Reading a tensor of `metrics` waits for the device: do it seldom."""

    def on_epoch(self, state: State, /) -> None:
        """After each epoch, and where the run ends inside one; `state.results` is fresh if `state.evaluated`."""

    def on_end(self, state: State, /) -> None:
        """After the last epoch, when the run came to its end."""

    def on_stop(self, state: State, whole: bool, /) -> None:
        """When the run ended early: by a mistake of the user's, or by Ctrl-C, which may leave half an update."""

    def close(self) -> None:
        """Whatever ended the run: let go of files and the terminal."""


class Callbacks(Callback):
    """Several callbacks as one, called in their order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def on_step(self, state: State, metrics: StepMetrics, /) -> None:
        for callback in self._callbacks:
            callback.on_step(state, metrics)

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
        """Around a run: tells the callbacks when it is stopped, and closes them however it ends."""
        try:
            yield
        except (KeyboardInterrupt, UserError) as error:
            self.on_stop(state, isinstance(error, UserError))
            raise
        finally:
            self.close()

    def close(self) -> None:
        with ExitStack() as stack:  # each is closed, even where another fails to
            for callback in reversed(self._callbacks):
                stack.callback(callback.close)


class StopOnDivergence(Callback):
    """Ends the run after `limit` updates in a row without a finite gradient.

    It looks once in `limit` updates, so the host waits for the device that seldom. All processes see the same
    gradients, so all of them stop together.
    """

    def __init__(self, limit: int = 20) -> None:
        self.limit = limit
        self._unread: list[torch.Tensor] = []
        self._streak = 0

    def on_step(self, state: State, metrics: StepMetrics, /) -> None:
        self._unread.append(metrics.skipped)
        if len(self._unread) == self.limit:
            self._look(state)

    def on_epoch(self, state: State, /) -> None:
        self._look(state)

    def _look(self, state: State) -> None:
        flags = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        for skipped in flags:
            self._streak = self._streak + 1 if skipped else 0
            if self._streak >= self.limit:
                raise UserError(
                    f"training diverged: {self.limit} updates in a row up to step {state.step} had a gradient that "
                    "is not finite and were skipped; lower base_lr, set use_clip_grad_norm, or use bf16 instead of O1"
                )
