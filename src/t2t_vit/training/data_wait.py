"""A device that waits for its data: said once, with the numbers, so that nobody looks for it in the network."""

from collections.abc import Callable

from t2t_vit.training.callbacks import Callback
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics

STEPS = 5  # the first batches of a run wait for the workers to start


class DataWait(Callback):
    """Notes where more than `share` of a window of `seconds` of training was spent waiting for the next batch.

    Args:
        advice: what can be done about it.
        processes: how many share the work, each with as many images.
    """

    def __init__(
        self,
        advice: str,
        note: Callable[[str], None],
        *,
        processes: int = 1,
        share: float = 0.5,
        seconds: float = 15.0,
    ) -> None:
        self._advice, self._note, self._processes = advice, note, processes
        self._share, self._seconds = share, seconds
        self._told = False
        self._steps = self._images = 0
        self._training = self._waiting = 0.0

    def on_step(self, state: State, metrics: StepMetrics, /) -> None:
        self._steps += 1
        if self._told or self._steps < STEPS:
            return
        clock = state.clock
        if self._steps == STEPS:
            self._images, self._training, self._waiting = 0, clock.training, clock.waiting
            return
        self._images += metrics.images * self._processes
        training, waiting = clock.training - self._training, clock.waiting - self._waiting
        if training < self._seconds:
            return
        if waiting > self._share * training:
            self._told = True
            self._note(
                f"reading images is the bottleneck: {waiting / training:.0%} of the last {training:.0f} s went by "
                f"waiting for data ({self._images / training:,.0f} images/s); {self._advice}"
            )
        self._steps = STEPS - 1  # the next window begins with the next step
