"""Early stopping and the limit of hours: when a run ends, and what a continued one knows of it."""

import math
from typing import Any

import pytest

from t2t_vit.evaluation.metrics import BEST_BY, Metrics
from t2t_vit.settings.schema import KEYS
from t2t_vit.training.limits import EarlyStopping, TimeLimit
from t2t_vit.training.signals import Stop
from t2t_vit.training.state import State


def evaluated(stopping: EarlyStopping, *courses: dict[str, float]) -> list[int]:
    """The steps that a run of one update an epoch made, whose evaluations are `courses`."""
    state, steps = State(1, 100, 100), []
    for numbers in courses:
        if state.finished:
            break
        state.step += 1
        steps.append(state.step)
        state.record({"raw": Metrics(**({"loss": 1.0, "top1": 0.5, "top5": 1.0, "count": 4} | numbers))})
        state.close_epoch()
        stopping.on_epoch(state)
    return steps


@pytest.mark.parametrize(
    ("best_by", "course", "steps"),
    [
        ("top1", [0.1, 0.3, 0.3, 0.2, 0.9], 4),
        ("top1", [0.1, 0.3, 0.3, 0.4, 0.4, 0.4, 0.9], 6),
        ("loss", [3.0, 2.0, 2.5, 2.0, 1.0], 4),
        ("loss", [math.nan, 2.0, math.nan, math.nan, 1.0], 4),
        ("macro_f1", [0.2, 0.1, 0.1, 0.3], 3),
        ("balanced_accuracy", [0.2, 0.3, 0.4, 0.5], 4),
    ],
)
def test_the_run_ends_where_two_evaluations_are_no_better(best_by: str, course: list[float], steps: int) -> None:
    notes: list[str] = []
    stopping = EarlyStopping(2, best_by, notes.append)
    assert evaluated(stopping, *[{best_by: value} for value in course]) == list(range(1, steps + 1))
    assert stopping.is_over == (steps < len(course))
    assert len(notes) == stopping.is_over and all(best_by in note for note in notes)


def test_the_better_one_of_two_sets_of_weights_counts() -> None:
    stopping, state = EarlyStopping(1, "top1", print), State(1, 9, 9)
    for ema in (0.6, 0.7):
        state.step += 1
        state.record({"raw": Metrics(1.0, 0.5, 1.0, 4), "ema": Metrics(1.0, ema, 1.0, 4)})
        stopping.on_epoch(state)
    assert not stopping.is_over


def test_epochs_without_an_evaluation_do_not_count() -> None:
    stopping, state = EarlyStopping(1, "top1", print), State(1, 9, 9)
    state.step = 1
    state.record({"raw": Metrics(1.0, 0.5, 1.0, 4)})
    for state.step in range(1, 6):
        stopping.on_epoch(state)
    assert not stopping.is_over


def test_off_it_leaves_nothing_in_a_checkpoint() -> None:
    stopping = EarlyStopping(0, "top1", print)
    assert len(evaluated(stopping, *[{"top1": 0.5}] * 50)) == 50
    assert stopping.state_dict() == {} and TimeLimit(0, State(1, 1, 1)).state_dict() == {}


def test_a_continued_run_knows_what_it_waited_for() -> None:
    whole, first, second = (EarlyStopping(3, "top1", print) for _ in range(3))
    course: list[dict[str, float]] = [{"top1": value} for value in (0.5, 0.4, 0.4, 0.4, 0.9)]
    evaluated(whole, *course)
    evaluated(first, *course[:3])
    second.load_state_dict(first.state_dict())
    evaluated(second, *course[3:])
    assert whole.is_over and second.is_over
    assert second.state_dict() == whole.state_dict()
    longer = EarlyStopping(4, "top1", print)
    longer.load_state_dict(whole.state_dict())
    assert not longer.is_over


class Time:
    """A clock that the test sets."""

    elapsed = 0.0


def test_hours_are_summed_over_continuations() -> None:
    state: Any = State(1, 1, 1)
    state.clock = Time()
    limit = TimeLimit(2, state)
    state.clock.elapsed = 5000
    assert not limit.is_over()
    going_on = TimeLimit(2, state)
    going_on.load_state_dict(limit.state_dict())
    state.clock.elapsed = 2199
    assert not going_on.is_over() and not going_on.was_over
    state.clock.elapsed = 2200
    assert going_on.is_over() and not going_on.was_over
    last = TimeLimit(2, state)
    last.load_state_dict(going_on.state_dict())
    assert last.was_over and not TimeLimit(0, state).is_over()


class Others:
    """Other processes, which bring these numbers to each turn; a turn knows what was brought to the one before."""

    def __init__(self, *numbers: int) -> None:
        self.numbers, self.brought = [*numbers], [0]

    def turn(self, number: int) -> int:
        self.brought.append(max(number, self.numbers.pop(0)))
        return self.brought[-2]

    def largest(self, number: int) -> int:
        return number

    def finish(self) -> None:
        pass

    def meet(self) -> None:
        pass


def test_what_one_process_says_of_the_time_holds_for_all_at_the_same_call() -> None:
    first, second = Stop(Others(0, 0, 0), lambda: True), Stop(Others(1, 1, 1), lambda: False)
    seen = []
    for _ in range(3):
        first.check()
        second.check()
        seen.append((first.is_time_up, second.is_time_up))
    assert seen == [(False, False), (True, True), (True, True)]


def test_the_time_raises_nothing_and_stays_up() -> None:
    answers = [False, True, False]
    stop = Stop(None, lambda: answers.pop(0))
    assert [(stop.check(), stop.is_time_up)[1] for _ in range(3)] == [False, True, True]


def test_the_table_of_measures_is_the_keys() -> None:
    assert KEYS["best_by"].allowed.values == BEST_BY  # type: ignore[union-attr]
