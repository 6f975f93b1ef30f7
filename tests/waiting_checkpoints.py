"""Checkpoints that are written when a step or an epoch returns."""

from t2t_vit.training.retention import Checkpoints
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


class Waiting(Checkpoints):
    """What the thread writes is there when a method returns."""

    def on_step(self, state: State, metrics: StepMetrics) -> None:
        super().on_step(state, metrics)
        self.wait()

    def on_epoch(self, state: State) -> None:
        super().on_epoch(state)
        self.wait()
