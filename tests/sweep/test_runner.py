"""The sweep's loop, with something in place of the trainings: finished, failed, killed, broken off, continued."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2t_vit.errors import UserError
from t2t_vit.sweep.results import logs_of_trial, table, trials_of
from t2t_vit.sweep.runner import environments
from t2t_vit.sweep.space import read_over
from t2t_vit.sweep.study import Plan, Study
from t2t_vit.training.signals import Stopped

Sweep = Callable[..., Study]


class Killed(BaseException):
    """Stands for SIGKILL of the sweep: no code of the program knows it."""


def outcome(study: Study) -> list[tuple[str, dict[str, Any], Any]]:
    return [(each.state.name, each.params, each.value) for each in study.trials()]


def started() -> list[str]:
    return Path("started").read_text(encoding="utf-8").splitlines()


def test_a_grid_is_gone_through_once(sweep: Sweep) -> None:
    study = sweep("base_lr=0.1,0.7,0.9")
    assert outcome(study) == [
        ("COMPLETE", {"base_lr": "0.1"}, pytest.approx(0.32)),
        ("COMPLETE", {"base_lr": "0.7"}, pytest.approx(0.8)),
        ("COMPLETE", {"base_lr": "0.9"}, pytest.approx(0.64)),
    ]
    assert [line.partition(" with")[0] for line in started()] == ["0.1 0 from 0", "0.7 0 from 0", "0.9 0 from 0"]
    sweep("base_lr=0.1,0.7,0.9")
    assert len(started()) == 3  # the same command again has nothing left to do


def test_seeds_are_averaged(sweep: Sweep, here: Path) -> None:
    study = sweep("base_lr=0.1,0.7", seeds=(0, 2, 4))
    dimensions = read_over(["base_lr=0.1,0.7"])
    best, other = trials_of(study.trials(), dimensions, {"base_lr": "0.1"}, loss=False)
    assert (best.number, best.mean, best.spread) == (1, pytest.approx(0.802), pytest.approx(0.002))
    assert best.values == pytest.approx((0.8, 0.802, 0.804))
    assert best.seconds == 12
    assert (other.is_default, best.is_default) == (True, False)
    assert [logs.parent.parent.name for logs in logs_of_trial(here / "sweep", best)] == ["seed-0", "seed-2", "seed-4"]
    heads, rows = table([best, other], dimensions, "top1")
    assert heads == ["trial", "base_lr", "top1", "spread", "time", ""]
    assert rows[0] == ["1", "0.7", "80.20 %", "0.20 %", "12 s", "complete"]
    assert rows[1][-1] == "complete, the configuration as it is"


def test_the_smallest_loss_is_the_best(sweep: Sweep) -> None:
    study = sweep("base_lr=0.1,0.7,0.9", loss=True)
    found = trials_of(study.trials(), read_over(["base_lr=0.1,0.7,0.9"]), None, loss=True)
    assert [each.texts["base_lr"] for each in found] == ["0.7", "0.9", "0.1"]


def test_a_run_that_was_killed_is_continued(sweep: Sweep) -> None:
    Path("kill-2-0.7").touch()
    told: list[str] = []
    study = sweep("base_lr=0.7", note=told.append)
    assert outcome(study) == [("COMPLETE", {"base_lr": "0.7"}, pytest.approx(0.8))]
    assert [line.partition(" with")[0] for line in started()] == ["0.7 0 from 0", "0.7 0 from 1"]
    assert "trial 0 (base_lr 0.7): was killed by SIGKILL; it is continued" in told


def test_a_run_that_fails_is_one_failed_trial(sweep: Sweep) -> None:
    Path("fail-0.9").touch()
    study = sweep("base_lr=0.9,0.7")
    assert [state for state, _, _ in outcome(study)] == ["FAIL", "COMPLETE"]
    _, failed = trials_of(study.trials(), read_over(["base_lr=0.9,0.7"]), None, loss=False)
    assert (failed.state, failed.reason) == ("failed", "the loss is not finite")


def test_a_first_run_that_cannot_begin_ends_the_sweep(sweep: Sweep) -> None:
    Path("never-begins").touch()
    with pytest.raises(UserError, match="the first run of the sweep cannot begin: data_url is wrong"):
        sweep("base_lr=0.1,0.7")
    Path("never-begins").unlink()
    assert [state for state, _, _ in outcome(sweep("base_lr=0.1,0.7"))] == ["COMPLETE", "COMPLETE"]


def test_what_leads_nowhere_is_broken_off_but_never_the_configuration_as_it_is(sweep: Sweep) -> None:
    over = "base_lr=0.7,0.71,0.72,0.73,0.1,0.01"
    study = sweep(over, prune="median", default={"base_lr": "0.01"})
    assert [state for state, _, _ in outcome(study)] == [*["COMPLETE"] * 4, "PRUNED", "COMPLETE"]
    *_, broken = trials_of(study.trials(), read_over([over]), None, loss=False)
    assert broken.last == (1, pytest.approx(0.08))
    assert broken.state == "broken off"


@pytest.mark.thorough
def test_hyperband_and_no_pruning(sweep: Sweep, here: Path) -> None:
    over = "base_lr=0.7,0.1,0.2,0.01,0.71,0.02"
    default = {"base_lr": "0.02"}
    states = [state for state, _, _ in outcome(sweep(over, prune="hyperband", default=default))]
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert (states[0], states[-1]) == ("COMPLETE", "COMPLETE")
    never = sweep(over, prune="none", default=default, place=here / "never")
    assert [state for state, _, _ in outcome(never)] == ["COMPLETE"] * 6


def draws(study: Study) -> list[float]:
    return [each.params["base_lr"] for each in study.trials()]


@pytest.mark.parametrize(
    "moment", [pytest.param(n, marks=() if n == 4 else pytest.mark.thorough) for n in range(1, 10)]
)
def test_drawn_values_are_the_same_after_a_kill_at_any_moment(sweep: Sweep, here: Path, moment: int) -> None:
    over, settings = "base_lr=0.1..0.9", {"trials": 5, "default": {"base_lr": 0.5}, "prune": "median"}
    whole = sweep(over, **settings, place=here / "whole")
    assert draws(whole)[0] == 0.5
    assert len(set(draws(whole))) == 5
    events = 0

    def dies(_: str) -> None:
        nonlocal events
        events += 1
        if events == moment:
            raise Killed

    with pytest.raises(Killed):
        sweep(over, **settings, note=dies)
    assert outcome(sweep(over, **settings)) == outcome(whole)


@pytest.mark.thorough
def test_more_trials_continue_a_sweep(sweep: Sweep, here: Path) -> None:
    whole = sweep("base_lr=0.1..0.9", trials=4, place=here / "whole")
    sweep("base_lr=0.1..0.9", trials=2)
    assert outcome(sweep("base_lr=0.1..0.9", trials=4)) == outcome(whole)


def test_a_signal_stops_the_runs_and_nothing_is_lost(sweep: Sweep) -> None:
    Path("wait-3").touch()

    def stops(text: str) -> None:
        if text.endswith("begins"):
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with pytest.raises(Stopped) as caught:
        sweep("base_lr=0.7,0.1", note=stops)
    assert caught.value.code == 128 + signal.SIGTERM
    Path("wait-3").unlink()
    told: list[str] = []
    study = sweep("base_lr=0.7,0.1", note=told.append)
    assert [state for state, _, _ in outcome(study)] == ["COMPLETE", "COMPLETE"]
    assert told[0] == "trial 0 (base_lr 0.7): goes on"
    assert [line.partition(" with")[0] for line in started()] == ["0.7 0 from 0", "0.7 0 from 2", "0.1 0 from 0"]


def test_several_at_a_time(sweep: Sweep) -> None:
    values = [f"0.{number}" for number in range(1, 9)]
    study = sweep(f"base_lr={','.join(values)}", jobs=3)
    assert [state for state, _, _ in outcome(study)] == ["COMPLETE"] * 8
    assert sorted(line.partition(" ")[0] for line in started()) == values


def test_a_trial_that_another_process_works_on_is_left_to_it(sweep: Sweep, here: Path) -> None:
    """The lock of a trial is what says so: here it is held by this test, until the sweep waits for it."""
    over = "base_lr=0.1,0.7"
    (here / "sweep").mkdir()
    plan = Plan(read_over([over]), 2, (0,), None, True, False, "none", 4)
    other = Study(here / "sweep", plan, 0)
    turn = other.next_turn([])
    assert turn is not None
    assert turn.texts == {"base_lr": "0.1"}
    told: list[str] = []

    def lets_go(text: str) -> None:
        told.append(text)
        if text.startswith("waiting"):
            turn.close()

    study = sweep(over, note=lets_go)
    assert told == [
        "trial 1 (base_lr 0.7): begins", "trial 1 (base_lr 0.7): top1 0.8000",
        "waiting for trials that another process works on",
        "trial 0 (base_lr 0.1): begins", "trial 0 (base_lr 0.1): top1 0.3200",
    ]  # fmt: skip
    assert [state for state, _, _ in outcome(study)] == ["COMPLETE", "COMPLETE"]


def test_what_the_runs_of_a_machine_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environments(1, 8, ["0", "1"]) == [{}]
    assert environments(3, 8, []) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(3, 8, ["4", "7"])] == ["4", "7", "4"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environments(2, 1, ["0"]) == [{}, {}]


def test_a_database_that_is_none(sweep: Sweep, here: Path) -> None:
    (here / "sweep").mkdir()
    (here / "sweep/study.db").write_text("no database at all, but some text that is long enough")
    with pytest.raises(UserError, match=r"study\.db: cannot be used as the sweep's database"):
        sweep("base_lr=0.1,0.7")
