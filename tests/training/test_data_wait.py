"""A device that waits for its data."""

import torch

from t2t_vit.training.data_wait import STEPS, DataWait
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


class FakeClock:
    training = waiting = 0.0


def told(share: float, steps: int) -> list[str]:
    notes: list[str] = []
    state = State.begin(1000, epochs=1)
    state.clock = FakeClock()
    wait = DataWait("raise num_parallel_workers", notes.append, processes=2)
    zero = torch.tensor(0.0)
    for _ in range(steps):
        state.step += 1
        state.clock.training += 1.0
        state.clock.waiting += 1.0 if state.step <= STEPS else share
        wait.on_step(state, StepMetrics(zero, zero, zero, zero, 8))
    return notes


def test_it_is_said_once_with_the_numbers():
    notes = told(0.75, 100)
    assert len(notes) == 1
    assert "75% of the last 15 s" in notes[0]
    assert "(16 images/s); raise num_parallel_workers" in notes[0]


def test_more_than_the_share_and_no_less():
    assert told(0.5, 100) == []
    assert len(told(0.51, 100)) == 1


def test_the_start_of_the_workers_and_a_short_wait_do_not_count():
    assert told(0.1, 100) == []
    assert told(0.75, 10) == []
