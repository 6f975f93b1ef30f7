"""The learning rate of every optimizer step, as a closed form of its number."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from t2t_vit.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """`schedule(step)` is the learning rate of optimizer step number `step`, counted from 0.

    With t = step / updates_per_epoch, in epochs:
        t >= epochs          min_lr (the cooldown)
        t <  warmup_length   warmup_lr + (base_lr - warmup_lr) t / warmup_length
        else, with e = t - warmup_length and E = epochs - warmup_length, and never below min_lr:
            cosine_lr        min_lr + (base_lr - min_lr)(1 + cos(pi e / E)) / 2    (Loshchilov & Hutter 2017)
            multistep_lr     base_lr lr_gamma^floor(e / lr_adjust)
            exp_lr           base_lr lr_gamma^e
            constant_lr      base_lr

    `warmup_length` may exceed `epochs`: the run then ends while still warming up.

    Raises:
        UserError: a name that is none of the four.
    """

    name: str
    base_lr: float
    epochs: float
    updates_per_epoch: int
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_length: float = 0.0
    lr_adjust: float = 30.0
    lr_gamma: float = 0.97

    def __post_init__(self) -> None:
        if self.name not in DECAYS:
            near = get_close_matches(self.name, DECAYS, n=1, cutoff=0.0)[0]
            raise UserError(f"lr_scheduler: {self.name!r} is none of {', '.join(DECAYS)}; did you mean {near}?")

    def __call__(self, step: int) -> float:
        time = step / self.updates_per_epoch
        if time >= self.epochs:
            return self.min_lr
        if time < self.warmup_length:
            return self.warmup_lr + (self.base_lr - self.warmup_lr) * time / self.warmup_length
        return max(self.min_lr, DECAYS[self.name](self, time - self.warmup_length))


def _cosine(schedule: Schedule, elapsed: float) -> float:
    share = elapsed / (schedule.epochs - schedule.warmup_length)
    return schedule.min_lr + (schedule.base_lr - schedule.min_lr) * (1 + math.cos(math.pi * share)) / 2


def _multistep(schedule: Schedule, elapsed: float) -> float:
    return schedule.base_lr * schedule.lr_gamma ** math.floor(elapsed / schedule.lr_adjust)


def _exponential(schedule: Schedule, elapsed: float) -> float:
    return schedule.base_lr * schedule.lr_gamma**elapsed


def _constant(schedule: Schedule, _: float) -> float:
    return schedule.base_lr


DECAYS: dict[str, Callable[[Schedule, float], float]] = {
    "cosine_lr": _cosine,
    "multistep_lr": _multistep,
    "exp_lr": _exponential,
    "constant_lr": _constant,
}
