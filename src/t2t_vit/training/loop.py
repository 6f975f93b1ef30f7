"""The training loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from t2t_vit.evaluation.metrics import Metrics, evaluate
from t2t_vit.training.average import EpochAverage
from t2t_vit.training.callbacks import Callback, Callbacks
from t2t_vit.training.optimizer import Schedule, set_lr
from t2t_vit.training.randomness import step_seed
from t2t_vit.training.signals import Counted, Stop
from t2t_vit.training.state import State
from t2t_vit.training.step import Batch, TrainStep


class TrainBatches(Protocol):
    """Where batches come from: the same ones for the same epoch, from any batch of it on."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch number `epoch`, from 0, without the first `start`."""


def _itself(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Validation:
    """What is evaluated after an epoch: each set of weights, by name, over the same batches.

    With an `average`, there are no weights called ema until it has an epoch.
    """

    batches: Counted[Batch]
    weights: Mapping[str, nn.Module]
    every_epochs: int = 1
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    reduce: Callable[[Tensor], Tensor] | None = None
    form: Callable[[nn.Module], nn.Module] = _itself  # the module to evaluate instead of each network
    classes: int = 0  # number of logits, to count per class; 0: do not count
    average: EpochAverage | None = None

    def __call__(self, stop: Stop, following: Callback) -> dict[str, Metrics]:
        """The metrics of each set of weights; `stop` may break it off, `following` sees it continue."""
        return {
            name: evaluate(
                self.form(model),
                self._watched(name, stop, following),
                autocast=self.autocast,
                reduce=self.reduce,
                classes=self.classes,
            )
            for name, model in self.weights.items()
            if name != "ema" or self.average is None or self.average.count
        }

    def _watched(self, name: str, stop: Stop, following: Callback) -> Iterator[Batch]:
        for done, batch in enumerate(stop.watch(self.batches), 1):
            yield batch
            following.on_evaluated(name, done, len(self.batches))

    def is_due(self, state: State) -> bool:
        """Every so many epochs (0: never), and always at the end."""
        return state.finished or (self.every_epochs > 0 and state.epoch % self.every_epochs == 0)


def train(
    step: TrainStep,
    loader: TrainBatches,
    schedule: Schedule,
    state: State,
    *,
    validation: Validation | None = None,
    average: EpochAverage | None = None,
    callbacks: Sequence[Callback] = (),
    stop: Stop | None = None,
    seed: int = 0,
    rank: int = 0,
) -> State:
    """Train from where `state` is to its last step; `state` is kept up to date and returned.

    What is dropped is a function of (seed, step, place in the global batch) where the step has its `numbers`, else of
    (seed, step, rank), and batches of (epoch, batch), so a run continued from a checkpoint is the run that was
    never interrupted.

    Raises:
        UserError: a callback, such as `StopOnDivergence`, ends the run, or the data does.
        Stopped: a signal asked for it, which `stop` heard.
    """
    following, stop = Callbacks(callbacks), stop or Stop()
    step.model.train()
    with stop.during(state), following.attending(state):
        while not state.complete:
            epoch, done = divmod(state.step, state.updates_per_epoch)
            due = state.epoch_end - state.step  # 0 after a stop between the end of an epoch and its evaluation
            ahead = loader.epoch(epoch, start=done * step.accumulation) if due else ()
            with closing(state.clock.watch(ahead)) as batches:
                for _ in range(due):
                    torch.manual_seed(step_seed(seed, state.step, rank))
                    state.lr = set_lr(step.optimizer, schedule(state.step))
                    metrics = step(islice(batches, step.accumulation), state.step)  # stays on the device; no wait here
                    state.step += 1
                    following.on_step(state, metrics)
                    stop.check()
                    if stop.is_time_up:
                        state.end_here()
                        break
            if average is not None:
                average.follow(state)
            if validation is not None and validation.is_due(state):
                state.record(validation(stop, following))
            state.close_epoch()
            following.on_epoch(state)
        state.ended = True
        following.on_end(state)
    return state
