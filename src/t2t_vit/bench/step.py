"""`bench step`: a training step by part, as the training loop runs it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from t2t_vit.bench.profiling import Laps, Spread, peak, rounds, synchronisations
from t2t_vit.bench.rates import Rates
from t2t_vit.training.ema import Ema
from t2t_vit.training.step import Batch, TrainStep
from t2t_vit.training.teacher import Loss

PARTS = ("batch transform", "forward", "backward", "optimizer", "ema")


def measure_step(
    step: TrainStep, batch: Callable[[], Batch], device: torch.device, rates: Rates, flops_per_image: int, repeats: int
) -> dict[str, Any]:
    """Images a second, parts, memory, waits and graphs of `step`.

    Args:
        batch: makes a batch of what lies on the device already: normalises, erases and mixes, as the loader does.
        flops_per_image: of the forward and the backward pass.
    """
    update = Update(step, batch)
    graphs = Graphs()
    update()  # compiles, and makes the optimizer's moments
    graphs.began()
    memory = peak(update, device)
    seconds = in_a_row(update, device, repeats)
    waits = synchronisations(partial(update.several, repeats), device)
    return {
        "images_per_second": update.images / Spread.of(seconds).median,
        "images": update.images,
        **rates.figure(seconds, update.images * flops_per_image),
        "parts": measure_parts(update, device, repeats),
        "memory": memory,
        "steps": repeats,
        "synchronisations": waits,
        "graphs": graphs.to_dict(),
    }


class Update:
    """One update after the other, each a new step of the run."""

    def __init__(self, step: TrainStep, batch: Callable[[], Batch]) -> None:
        self.step, self.batch = step, batch
        self.images = 0  # of one update
        self._count = 0

    def __call__(self) -> None:
        """One update."""
        self._count += 1
        self.images = self.step((self.batch() for _ in range(self.step.accumulation)), self._count).images

    def several(self, count: int) -> None:
        """So many updates, as between two lines of the log."""
        for _ in range(count):
            self()


def in_a_row(run: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 2) -> list[float]:
    """Seconds of each of several runs, between which nobody waits for the device."""
    laps = Laps(device)
    laps.begin()
    for number in range(warm_up + repeats):
        run()
        laps.lap(str(number))
    return list(laps.seconds().values())[warm_up:]


def measure_parts(update: Update, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """A row for each of `PARTS` that there is; shares are those of their sum.

    backward begins with the loss; optimizer is the gradient's norm, clipping and the loss scale, too.
    """
    laps = Laps(device)

    def once() -> dict[str, float]:
        laps.begin()
        update()
        laps.lap("optimizer" if update.step.ema is None else "ema")
        return laps.seconds()

    with watched(update, laps):
        found = rounds(once, repeats)
    total = sum(Spread.of(values).median for values in found.values())
    return [
        {"name": name, "seconds": Spread.of(found[name]).to_dict(), "share": Spread.of(found[name]).median / total}
        for name in PARTS
        if name in found
    ]


@contextmanager
def watched(update: Update, laps: Laps) -> Iterator[None]:
    """Meanwhile the end of each part of the step is a lap."""
    step = update.step
    batch, autocast, loss, ema = update.batch, step.autocast, step.loss, step.ema

    def watched_batch() -> Batch:
        made = batch()
        laps.lap("batch transform")
        return made

    update.batch = watched_batch
    step.autocast, step.loss = _watched_context(autocast, laps), _watched_loss(loss, laps)
    step.ema = None if ema is None else _WatchedEma(ema, laps)
    try:
        yield
    finally:
        update.batch, step.autocast, step.loss, step.ema = batch, autocast, loss, ema


def _watched_context(
    autocast: Callable[[], AbstractContextManager[object]], laps: Laps
) -> Callable[[], AbstractContextManager[object]]:
    @contextmanager
    def context() -> Iterator[None]:
        with autocast():
            yield
        laps.lap("forward")

    return context


def _watched_loss(loss: Loss, laps: Laps) -> Loss:
    """The loss's gradient is the first of the backward pass; its hook asks the engine for a lap at the end."""

    def computed(logits: Tensor, targets: Tensor) -> Tensor:
        value = loss(logits, targets)
        engine: Any = torch.autograd.Variable._execution_engine
        value.register_hook(  # type: ignore[no-untyped-call]
            lambda _: engine.queue_callback(lambda: laps.lap("backward"))
        )
        return value

    return computed


class _WatchedEma(Ema):
    """What comes before the average is the optimizer's."""

    def __init__(self, ema: Ema, laps: Laps) -> None:
        self._ema, self._laps = ema, laps

    def update(self, moved: Tensor) -> None:
        self._laps.lap("optimizer")
        self._ema.update(moved)


class Graphs:
    """Counts from when it is made: graphs at the first run, breaks between them, and graphs made later."""

    def __init__(self) -> None:
        self._before = _graphs(), _breaks()
        self._first = 0

    def began(self) -> None:
        """The first run is over: what is compiled from now on is compiled again."""
        self._first = _graphs() - self._before[0]

    def to_dict(self) -> dict[str, Any]:
        """`graphs` is 0 where nothing is compiled; one graph without a break is what one hopes for."""
        return {
            "graphs": self._first,
            "breaks": _breaks() - self._before[1],
            "recompiled": _graphs() - self._before[0] - self._first,
        }


def _graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def _breaks() -> int:
    return sum(counters["graph_break"].values())
