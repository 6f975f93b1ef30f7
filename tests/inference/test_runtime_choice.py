"""The fastest of several runtimes, with a clock and runtimes of our own."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.runtime_choice import LONG_ENOUGH, Candidate, fastest

IMAGES = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
LOGITS = torch.tensor([[1.0, -2.0, 4.0]]).repeat(10, 1)


class Machine:
    """A clock that runtimes move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.built: list[str] = []
        self.alive: list[weakref.ref[Predictor]] = []
        self.notes: list[str] = []

    def clock(self) -> float:
        return self.now

    def candidate(self, name: str, seconds: float, difference: float = 0.0) -> Candidate:
        def build() -> Predictor:
            self.built.append(name)
            predictor = Timed(self, seconds, difference)
            self.alive.append(weakref.ref(predictor))
            return predictor

        return Candidate(name, build)

    def fastest(self, *others: Candidate, total: int = 10**6) -> tuple[str, Predictor]:
        own = self.candidate("torch", 0.5)
        return fastest(own, others, IMAGES, total, tolerance=1e-2, note=self.notes.append, clock=self.clock)


class Timed(Predictor):
    """A call takes so many seconds; logits are off by so much of the largest."""

    def __init__(self, machine: Machine, seconds: float, difference: float) -> None:
        super().__init__(Preprocessing((8, 8)), None)
        self.machine, self.seconds, self.difference = machine, seconds, difference

    def logits(self, images: Tensor) -> Tensor:
        assert images is IMAGES
        self.machine.now += self.seconds
        return LOGITS + self.difference * 4.0


def test_the_fastest_is_taken_and_the_rates_are_told() -> None:
    machine = Machine()
    name, predictor = machine.fastest(machine.candidate("quick", 0.2, 0.009), machine.candidate("slow", 2.0))
    assert name == "quick"
    assert isinstance(predictor, Timed) and predictor.seconds == 0.2
    assert machine.notes[-1] == ("runtime: quick, by images/s in batches of 10: torch 20.0, quick 50.0, slow 5.0")
    del predictor
    assert [alive() for alive in machine.alive] == [None] * 3  # the losers were given up


def test_ours_is_kept_where_nothing_is_faster() -> None:
    machine = Machine()
    assert machine.fastest(machine.candidate("slow", 0.6))[0] == "torch"
    assert "torch 20.0, slow 16.7" in machine.notes[-1]


def test_short_work_is_not_measured_for_long() -> None:
    machine = Machine()
    enough = round(10 * LONG_ENOUGH / 0.5)
    assert machine.fastest(machine.candidate("quick", 0.2), total=enough - 1)[0] == "torch"
    assert (machine.built, machine.notes) == (["torch"], [])
    assert machine.now < 2.0
    assert machine.fastest(machine.candidate("quick", 0.2), total=enough)[0] == "quick"


@pytest.mark.parametrize("difference", [0.011, float("nan"), float("inf")])
def test_other_answers_are_never_taken(difference: float) -> None:
    machine = Machine()
    assert machine.fastest(machine.candidate("wrong", 0.1, difference))[0] == "torch"
    assert "wrong is left out: its logits differ by" in machine.notes[1]


def failing(error: Exception) -> Callable[[], Predictor]:
    def build() -> Predictor:
        raise error

    return build


@pytest.mark.parametrize("error", [UserError("it is\nnot installed"), RuntimeError("it is not installed")])
def test_what_cannot_be_built_is_left_out(error: Exception) -> None:
    machine = Machine()
    assert machine.fastest(Candidate("gone", failing(error)), machine.candidate("quick", 0.2))[0] == "quick"
    assert "runtime: gone is left out: it is not installed" in machine.notes


def test_a_slow_second_decides_nothing() -> None:
    """Each is measured several times, in turn, and its best time counts."""
    machine = Machine()
    busy = machine.candidate("busy", 0.2)

    def build() -> Predictor:
        predictor = busy.build()
        real, calls = predictor.logits, iter(range(1000))

        def logits(images: Tensor) -> Tensor:
            machine.now += 3.0 if next(calls) in (1, 2) else 0.0
            return real(images)

        predictor.logits = logits  # type: ignore[method-assign]
        return predictor

    assert machine.fastest(Candidate("busy", build))[0] == "busy"
