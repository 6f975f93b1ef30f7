"""The training loop."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from t2t_vit.evaluation.metrics import Metrics, evaluate
from t2t_vit.training.callbacks import Callback, Callbacks, StopOnDivergence
from t2t_vit.training.optimizer import set_lr
from t2t_vit.training.schedule import Schedule
from t2t_vit.training.state import State
from t2t_vit.training.step import Batch, TrainStep


class TrainBatches(Protocol):
    """Where batches come from: the same ones for the same epoch, from any batch of it on."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch number `epoch`, from 0, without the first `start`."""


@dataclass(frozen=True)
class Validation:
    """What is evaluated after an epoch: each set of weights, by name, over the same batches."""

    batches: Iterable[Batch]
    weights: Mapping[str, nn.Module]
    every_epochs: int = 1
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    reduce: Callable[[Tensor], Tensor] | None = None

    def __call__(self) -> dict[str, Metrics]:
        """The metrics of each set of weights."""
        return {
            name: evaluate(model, self.batches, autocast=self.autocast, reduce=self.reduce)
            for name, model in self.weights.items()
        }

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
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    rank: int = 0,
) -> State:
    """Train from where `state` is to its last step; `state` is kept up to date and returned.

    Dropout and drop path are functions of (seed, step, rank), and batches of (epoch, batch), so a run that
    goes on from a checkpoint is the run that was never interrupted.

    Raises:
        UserError: the gradients stay non-finite, or a callback could not do its work.
    """
    following = Callbacks((StopOnDivergence(), *callbacks))
    step.model.train()
    with following.attending(state):
        while not state.finished:
            epoch, done = divmod(state.step, state.updates_per_epoch)
            with closing(state.clock.watch(loader.epoch(epoch, start=done * step.accumulation))) as batches:
                for _ in range(state.epoch_end - state.step):
                    torch.manual_seed(step_seed(seed, state.step, rank))
                    state.lr = set_lr(step.optimizer, schedule(state.step))
                    metrics = step(islice(batches, step.accumulation))  # on the device; nobody waits here
                    state.step += 1
                    following.on_step(state, metrics)
            if validation is not None and validation.is_due(state):
                state.record(validation())
            following.on_epoch(state)
        following.on_end(state)
    return state


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for the random numbers of one update in one process."""
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
