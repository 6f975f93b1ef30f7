"""Which runtime is fastest here: tried on the user's own images, named with its rate, and never with other answers."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from torch import Tensor

from t2t_vit.errors import UserError, one_line
from t2t_vit.inference.predictor import Predictor

# Seconds of remaining work from which a trial pays off: exporting and loading a network takes up to a minute.
LONG_ENOUGH = 300.0
_SECONDS = 1.0  # of measuring a candidate
_ROUNDS = 3


@dataclass(frozen=True)
class Candidate:
    """A runtime and what makes its predictor, which is called only if the work is long enough."""

    name: str
    build: Callable[[], Predictor]


def fastest(
    own: Candidate,
    others: Sequence[Candidate],
    images: Tensor,
    total: int,
    *,
    tolerance: float,
    note: Callable[[str], None],
    clock: Callable[[], float] = perf_counter,
) -> tuple[str, Predictor]:
    """The name and the predictor of the fastest; all but the winner are given up.

    `own` is measured first. Where it has less than `LONG_ENOUGH` to do, it is taken. The others are then built and
    measured in turn with it, since a machine's speed changes from second to second.

    Args:
        images: uint8 (B, in_chans, height, width), of the batch that will be used.
        total: images ahead.
        tolerance: the largest difference of two logits, as a share of the largest one, with which another is taken.
        note: called with what was measured, in one line, and with why a candidate was left out.
        clock: seconds.
    """
    built = {own.name: own.build()}
    expected = built[own.name].logits(images)  # the first call prepares, and is not measured
    seconds = {own.name: _seconds(built[own.name], images, clock)}
    if not others or seconds[own.name] / len(images) * total < LONG_ENOUGH:
        return own.name, built[own.name]
    note(f"runtime: trying {', '.join(other.name for other in others)} and {own.name}, which takes up to a minute")
    for other in others:
        try:
            predictor = other.build()
            answers = predictor.logits(images)
        except (Exception, UserError) as error:  # whatever another runtime cannot do, PyTorch can
            note(f"runtime: {other.name} is left out: {one_line(error)}")
            continue
        difference = float((answers - expected).abs().max() / expected.abs().max())
        if difference <= tolerance:  # and not NaN
            built[other.name], seconds[other.name] = predictor, float("inf")
        else:
            note(f"runtime: {other.name} is left out: its logits differ by {difference:.1e} of the largest")
    for _ in range(_ROUNDS):
        for name, predictor in built.items():
            seconds[name] = min(seconds[name], _seconds(predictor, images, clock))
    winner = min(built, key=lambda name: seconds[name])
    rates = ", ".join(f"{name} {len(images) / seconds[name]:,.1f}" for name in built)
    note(f"runtime: {winner}, by images/s in batches of {len(images)}: {rates}")
    chosen = built[winner]
    built.clear()
    gc.collect()  # a network is large, and its modules refer to each other
    return winner, chosen


def _seconds(predictor: Predictor, images: Tensor, clock: Callable[[], float]) -> float:
    """Of one call, the shortest of as many as fit into a part of a second, at least one."""
    shortest, end = float("inf"), clock() + _SECONDS / _ROUNDS
    while True:
        before = clock()
        predictor.logits(images)
        after = clock()
        shortest = min(shortest, after - before)
        if after >= end:
            return shortest
