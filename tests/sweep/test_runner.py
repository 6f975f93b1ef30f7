"""The sweep's loop, with something in place of the trainings: finished, failed, killed, broken off, continued."""

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from t2t_vit.errors import UserError
from t2t_vit.platforms import NoLocksError
from t2t_vit.sweep import process
from t2t_vit.sweep.record import enter
from t2t_vit.sweep.results import logs_of_trial, table, trials_of
from t2t_vit.sweep.runner import environments
from t2t_vit.sweep.space import grid_size, read_over
from t2t_vit.sweep.study import Plan, Study
from t2t_vit.training import run
from t2t_vit.training.run import Lock
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
    assert heads == ["trial", "base_lr", "top1", "spread", "time", "state"]
    assert rows[0] == ["1", "0.7", "80.20 %", "0.20 %", "12 s", "complete"]
    assert rows[1][-1] == "complete, the values of the configuration itself"


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
    assert broken.state == "stopped early"


@pytest.mark.thorough
def test_hyperband_and_no_pruning(sweep: Sweep, here: Path) -> None:
    over = "base_lr=0.7,0.1,0.2,0.01,0.71,0.02"
    default = {"base_lr": "0.02"}
    states = [state for state, _, _ in outcome(sweep(over, prune="hyperband", default=default))]
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert (states[0], states[-1]) == ("COMPLETE", "COMPLETE")
    never = sweep(over, prune="none", default=default, place=here / "never")
    assert [state for state, _, _ in outcome(never)] == ["COMPLETE"] * 6


def rows_of(study: Study, over: str, default: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table, apart from times."""
    trials = trials_of(study.trials(), read_over([over]), default, loss=False)
    return [{name: value for name, value in each.to_dict().items() if name != "seconds"} for each in trials]


WRITTEN = [
    (optuna.Study, "enqueue_trial"), (optuna.Study, "ask"), (optuna.Study, "tell"), (optuna.Trial, "report"),
    (optuna.Trial, "set_user_attr"), (process.SeedRun, "start"),
]  # fmt: skip


def forked() -> int:
    """0 in the new process, whose number the other one gets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the new process does not use
        return os.fork()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the sweep that is killed is a fork of this process")
@pytest.mark.parametrize(
    ("moment", "trials"),
    [(17, 2), *(pytest.param(n, 7, marks=pytest.mark.thorough) for n in (1, 2, 5, 10, 17, 28, 39, 52, 61, 66))],
)
def test_kill_9_at_any_moment_leaves_the_table_as_it_is(
    sweep: Sweep, here: Path, moment: int, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep is killed just before or after the `moment`th time that it writes something or starts a training.

    Its training goes on alone, to its end, so that trials are broken off by what they came to, not by when one looks.
    """
    over, default = "base_lr=0.1..0.9", {"base_lr": 0.7}
    settings = {"trials": trials, "default": default, "prune": "median"}
    whole = rows_of(sweep(over, **settings, place=here / "whole"), over, default)
    assert {row["state"] for row in whole} == ({"complete", "stopped early"} if trials == 7 else {"complete"})
    child = forked()
    if not child:
        events = 0

        def counts(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal events
                events += 1
                if events == moment and moment % 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                found = method(*args, **kwargs)
                if events == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            return call

        for kind, name in WRITTEN:
            monkeypatch.setattr(kind, name, counts(getattr(kind, name)))
        try:
            sweep(over, **settings)
        finally:
            os._exit(events)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"only {os.WEXITSTATUS(status)} things were written"
    assert rows_of(sweep(over, **settings), over, default) == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the sweep that is killed is a fork of this process")
def test_a_training_that_outlived_its_sweep_is_waited_for(sweep: Sweep) -> None:
    """The next trial is drawn when its result is there, and does not train beside it."""
    Path("until-it-goes-2").touch()
    child = forked()
    if not child:
        try:
            sweep("base_lr=0.7,0.1")
        finally:
            os._exit(1)
    while not [*Path("sweep").glob("trial-0000/seed-0/logs/net/history.jsonl")]:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told: list[str] = []

    def ends(text: str) -> None:
        told.append(text)
        if text.startswith("waiting"):
            Path("until-it-goes-2").unlink()

    assert [state for state, _, _ in outcome(sweep("base_lr=0.7,0.1", note=ends))] == ["COMPLETE", "COMPLETE"]
    assert told == [
        "waiting for trials that another process works on",
        "trial 0 (base_lr 0.7): continues", "trial 0 (base_lr 0.7): top1 80.00 %",
        "trial 1 (base_lr 0.1): begins", "trial 1 (base_lr 0.1): top1 32.00 %",
    ]  # fmt: skip
    assert len(started()) == 2


@pytest.mark.thorough
def test_more_trials_continue_a_sweep(sweep: Sweep, here: Path) -> None:
    whole = sweep("base_lr=0.1..0.9", trials=4, place=here / "whole")
    sweep("base_lr=0.1..0.9", trials=2)
    assert outcome(sweep("base_lr=0.1..0.9", trials=4)) == outcome(whole)


LISTS = ("base_lr=0.1,0.7,0.9", "mixup=0,0.2,0.8")


@pytest.mark.thorough
def test_nothing_is_tried_twice(sweep: Sweep) -> None:
    """Of 9 combinations, of which TPE alone would repeat the good ones, 8; and of three whole numbers all three."""
    study = sweep(*LISTS, trials=8)
    assert len({tuple(params.items()) for _, params, _ in outcome(study)}) == 8
    assert sorted(outcome(sweep("epochs=3..5", trials=9, place=Path("numbers"))), key=str) == [
        ("COMPLETE", {"epochs": number}, pytest.approx(0.64)) for number in (3, 4, 5)
    ]


def test_numbers_that_are_equal_as_written_are_tried_once(sweep: Sweep) -> None:
    study = sweep("base_lr=0.7..0.7002", trials=9)  # with 4 digits there are 0.7, 0.7001 and 0.7002
    assert sorted(line.partition(" ")[0] for line in started()) == ["0.7", "0.7001", "0.7002"]
    assert study.is_over()
    assert study.next_turn([]) is None


@pytest.mark.thorough
def test_a_sweep_goes_on_with_more_values(sweep: Sweep) -> None:
    """Trials keep their numbers and what came of them; only what is new is trained, drawn or in its order."""
    first = outcome(sweep(LISTS[0], "mixup=0,0.2", trials=4))
    assert len(first) == 4
    whole = outcome(sweep(LISTS[0], "mixup=0,0.2"))
    assert whole[:4] == first
    assert len({tuple(params.items()) for _, params, _ in whole}) == len(whole) == 6
    grown = outcome(sweep(*LISTS))
    assert grown[:6] == whole
    assert [params["mixup"] for _, params, _ in grown[6:]] == ["0.8"] * 3
    assert len(started()) == 9


@pytest.mark.thorough
def test_values_that_are_added_may_be_drawn_and_ranges_widened(sweep: Sweep) -> None:
    over = ("base_lr=0.6..0.8", "mixup=0,0.2")
    first = outcome(sweep(*over, trials=3))
    more = outcome(sweep("base_lr=0.1..0.9", "mixup=0,0.2,0.8", trials=14))
    assert more[:3] == first
    assert len(more) == 14
    assert any(params["mixup"] == "0.8" for _, params, _ in more)
    assert any(not 0.6 <= params["base_lr"] <= 0.8 for _, params, _ in more)


def test_a_copy_of_the_trials_that_a_kill_left_unfinished_is_made_again(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = outcome(sweep("base_lr=0.1,0.7"))
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "set_user_attr", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            sweep("base_lr=0.1,0.7,0.9")
    grown = outcome(sweep("base_lr=0.1,0.7,0.9"))
    assert grown == [*first, ("COMPLETE", {"base_lr": "0.9"}, pytest.approx(0.64))]
    assert len(started()) == 3


def test_trials_keep_what_came_of_them_when_values_are_added(here: Path) -> None:
    """Complete, broken off, failed, and one that a kill left in its midst, which is taken up."""

    def opened(over: str) -> Study:
        dimensions = read_over([over])
        return Study(here, Plan(dimensions, grid_size(dimensions) or 0, (0,), None, True, False, "none", 4), 0)

    before = opened("base_lr=0.1,0.2,0.3,0.4")
    turns = [before.next_turn([*range(number)], 9) for number in range(4)]
    done, pruned, failed, left = [turn for turn in turns if turn is not None]
    for turn in (done, pruned, left):
        before.report(turn, 1, 0.5)
    before.complete(done, [0.75], 3.0)
    before.pruned(pruned, 1.0)
    before.failed(failed, "the loss is not finite")
    for turn in (done, pruned, failed, left):
        turn.close()
    after = opened("base_lr=0.4,0.3,0.2,0.1,0.5")

    def known(study: Study) -> list[Any]:
        return [(t.state, t.params, t.value, t.intermediate_values, t.user_attrs) for t in study.trials()]

    assert known(after)[:4] == known(before)
    taken, new = after.next_turn([]), after.next_turn([3], 2)
    assert taken is not None and new is not None
    assert (taken.number, taken.texts, taken.reported) == (3, {"base_lr": "0.4"}, {1})
    assert (new.number, new.texts) == (4, {"base_lr": "0.5"})


def test_a_run_that_wrote_its_end_is_complete_however_its_process_ended(sweep: Sweep) -> None:
    Path("dies-after-its-end").touch()
    told: list[str] = []
    study = sweep("base_lr=0.7", note=told.append)
    assert outcome(study) == [("COMPLETE", {"base_lr": "0.7"}, pytest.approx(0.8))]
    assert told == ["trial 0 (base_lr 0.7): begins", "trial 0 (base_lr 0.7): top1 80.00 %"]


def test_a_run_that_did_not_write_its_end_is_continued_and_is_not_complete(sweep: Sweep) -> None:
    Path("ends-early-0.7").touch()
    told: list[str] = []
    study = sweep("base_lr=0.7,0.1", note=told.append)
    assert [state for state, _, _ in outcome(study)] == ["FAIL", "COMPLETE"]
    again = "trial 0 (base_lr 0.7): ended, and its logs folder does not say how"
    assert told[1:5] == [f"{again}; it is continued"] * 3 + [again.replace(": ended", ": failed: ended")]


def test_a_run_is_not_broken_off_after_its_last_epoch(sweep: Sweep) -> None:
    """Worse than the others only at the end: there is nothing left to save, and the run has its result."""
    Path("falls-0.705").touch()
    study = sweep("base_lr=0.7,0.71,0.72,0.73,0.705", prune="median")
    assert [state for state, _, _ in outcome(study)] == ["COMPLETE"] * 5


def test_a_trial_whose_run_is_alive_is_waited_for(sweep: Sweep, here: Path) -> None:
    """As after kill -9 of the sweep on Windows, where the training goes on without the trial's lock."""
    (here / "sweep").mkdir()
    study = Study(here / "sweep", Plan(read_over(["base_lr=0.1"]), 1, (0,), None, True, False, "none", 4), 0)
    turn = study.next_turn([])
    assert turn is not None
    turn.close()
    alive = Lock(print)
    alive.take(here / "sweep/trial-0000/seed-0/logs/net", fresh=True)
    told: list[str] = []

    def ends(text: str) -> None:
        told.append(text)
        if text.startswith("waiting"):
            assert not Path("started").exists()
            alive.release()

    assert [state for state, _, _ in outcome(sweep("base_lr=0.1", note=ends))] == ["COMPLETE"]
    assert told[0] == "waiting for trials that another process works on"
    assert len(started()) == 1


def test_where_there_are_no_locks_a_living_process_is_looked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: int) -> None:
        raise NoLocksError("its file system has none (Function not implemented)")

    monkeypatch.setattr(run, "lock", none)
    folder = here / "sweep"
    told: list[str] = []
    enter(folder, {"over": ["base_lr=0.1"]}, told.append)
    (line,) = told
    assert line.startswith(f"{folder} cannot be locked, its file system has none (Function not implemented): run one")
    study = Study(folder, Plan(read_over(["base_lr=0.1"]), 1, (0,), None, True, False, "none", 4), 0)
    turn = study.next_turn([])
    assert turn is not None
    turn.close()
    path = folder / "trial-0000" / run.LOCK
    held = json.loads(path.read_text())
    assert held["process"] == os.getpid()
    path.write_text(json.dumps(held | {"process": os.getppid()}))
    assert study.next_turn([]) is None  # the trial is that process's
    path.write_text(json.dumps(held | {"process": 2**22 + 1}))  # more than there can be on Linux
    assert study.next_turn([]) is not None


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
    assert told[0] == "trial 0 (base_lr 0.7): continues"
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
    path = here / "sweep/trial-0000" / run.LOCK
    path.write_text(json.dumps(json.loads(path.read_text()) | {"process": os.getppid()}))
    told: list[str] = []

    def lets_go(text: str) -> None:
        told.append(text)
        if text.startswith("waiting"):
            turn.close()

    study = sweep(over, note=lets_go)
    assert told == [
        "trial 1 (base_lr 0.7): begins", "trial 1 (base_lr 0.7): top1 80.00 %",
        "waiting for trials that another process works on",
        "trial 0 (base_lr 0.1): begins", "trial 0 (base_lr 0.1): top1 32.00 %",
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


def test_an_abandoned_trial_is_not_taken_up_beside_one_that_outlived_its_sweep(here: Path) -> None:
    """The one that still trains comes after it, and is a training all the same."""
    study = Study(here, Plan(read_over(["base_lr=0.1,0.2"]), 2, (0,), None, True, False, "none", 4), 0)
    abandoned, orphan = study.next_turn([]), study.next_turn([0], 2)
    assert abandoned is not None and orphan is not None
    abandoned.close()
    # The lock that stays open is a training's; who wrote itself into it is known to live on no machine.
    path = here / "trial-0001" / run.LOCK
    path.write_text(json.dumps(json.loads(path.read_text()) | {"process": 2**22 + 1}))
    assert study.next_turn([]) is None
    beside = study.next_turn([], 2)
    assert beside is not None and beside.number == 0
    beside.close()
    orphan.close()
    after = study.next_turn([])
    assert after is not None and after.number == 0
