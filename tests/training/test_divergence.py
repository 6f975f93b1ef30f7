"""Updates without a finite gradient."""

import json
import math

import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.files import lines_of
from t2t_vit.training.divergence import StopOnDivergence
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


def feed(guard: StopOnDivergence, skipped: str, state: State) -> None:
    """A step for each letter: x is skipped."""
    for letter in skipped:
        state.step += 1
        zero = torch.tensor(math.nan if letter == "x" else 0.0)
        guard.on_step(state, StepMetrics(zero, zero, torch.tensor(letter == "x"), torch.tensor(1.0), 4))


def names(step: int) -> list[str]:
    return [f"{step}_{image}.jpg" for image in range(12)]


def test_the_limit_counts_updates_in_a_row(tmp_path):
    notes = []
    log = tmp_path / "logs" / "skipped.jsonl"
    guard = StopOnDivergence(3, names=names, log=log, note=notes.append)
    state = State.begin(100, epochs=1)
    feed(guard, "..xx.xx..", state)
    guard.on_epoch(state)
    assert [json.loads(row)["step"] for row in log.read_text().splitlines()] == [3, 4, 6, 7]
    assert json.loads(log.read_text().splitlines()[0])["images"] == names(3)
    assert len(notes) == 1
    assert "step 3:" in notes[0]
    with pytest.raises(UserError) as error:
        feed(guard, "x.xxx.", state)
    message = str(error.value)
    assert "3 updates in a row, steps 12 to 14" in message
    assert f"14_0.jpg, 14_1.jpg, {', '.join(f'14_{i}.jpg' for i in range(2, 8))} and 4 more, all in {log}" in message


def test_a_row_of_more_names_than_a_line_holds_is_read_again(tmp_path):
    log, many = tmp_path / "skipped.jsonl", [f"n01440764/n01440764_{number:06}.JPEG" for number in range(40_000)]
    first, second = (StopOnDivergence(2, names=lambda _: many, log=log) for _ in range(2))
    state = State.begin(100, epochs=1)
    feed(first, "x.", state)
    (row,) = map(json.loads, lines_of(log))
    assert (row["images"], row["more"]) == (many[:20_000], 20_000)
    kept = first.state_dict()
    feed(first, "x.", state)
    second.load_state_dict(kept)
    assert [json.loads(row)["step"] for row in lines_of(log)] == [1]


def test_a_streak_goes_on_in_a_continued_run():
    first, second = StopOnDivergence(4), StopOnDivergence(4)
    state = State.begin(100, epochs=1)
    feed(first, "..xxx", state)
    second.load_state_dict(first.state_dict())
    with pytest.raises(UserError, match="steps 3 to 6"):
        feed(second, "x..", state)


def test_rows_past_the_checkpoint_are_told_again(tmp_path):
    log = tmp_path / "skipped.jsonl"
    first, second = (StopOnDivergence(3, log=log) for _ in range(2))
    state = State.begin(100, epochs=1)
    feed(first, "x.x", state)
    kept = first.state_dict()
    feed(first, "x.x", state)
    second.load_state_dict(kept)
    assert [json.loads(row)["step"] for row in log.read_text().splitlines()] == [1, 3]


def test_what_was_not_looked_at_is_kept_where_the_run_stops(tmp_path):
    log = tmp_path / "skipped.jsonl"
    guard, state = StopOnDivergence(9, names=names, log=log), State.begin(100, epochs=1)
    feed(guard, ".x.x", state)
    guard.on_stop(state, False)  # amid an update: nothing is read from the device
    assert not log.exists()
    guard.on_stop(state, True)
    assert [json.loads(row) for row in log.read_text().splitlines()] == [
        {"step": step, "images": names(step)} for step in (2, 4)
    ]


def test_a_full_disk_is_no_reason_to_stop(tmp_path):
    (tmp_path / "file").write_text("")
    guard = StopOnDivergence(2, names=names, log=tmp_path / "file" / "skipped.jsonl")
    feed(guard, "x.x.", State.begin(100, epochs=1))
