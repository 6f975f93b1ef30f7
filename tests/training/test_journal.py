import csv
import io
import json
import math

import pytest
import torch
from rich.console import Console as RichConsole

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.journal import COLUMNS, Console, History, Journal, LiveBar, duration
from t2t_vit.training.measurements import Instruments, StepWindow, Utilisation, peak_memory
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


class FakeClock:
    training = waiting = elapsed = 0.0


def metrics(loss, norm=1.0, scale=1.0):
    norm = torch.tensor(norm)
    return StepMetrics(torch.tensor(loss), norm, ~norm.isfinite(), torch.tensor(scale), 16)


def rows(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def follow(callback, state, steps=20, with_ema=True):
    batches = state.clock.watch(range(steps))
    for _ in batches:
        state.step += 1
        state.lr = 0.001
        callback.on_step(state, metrics(float(state.step)))
        if state.step % state.updates_per_epoch == 0:
            state.record(
                {"raw": Metrics(1.5, 0.5, 0.9, 10)} | ({"ema": Metrics(2.5, 0.25, 0.8, 10)} if with_ema else {})
            )
            callback.on_epoch(state)
    callback.close()


def test_lines_and_rows(tmp_path, capsys):
    state = State(10, 2, 20)
    history = History(tmp_path)
    console = Console(tmp_path / "train.log", live=False)
    follow(Journal(state, console, instruments=Instruments(processes=2), every=4, history=history), state)
    console.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == (tmp_path / "train.log").read_text().splitlines()
    assert lines[0] == "epoch 1/2  step 1/20  loss 1.0000  lr 1.00e-03  the first step took 0:00:00"
    assert lines[1].startswith("epoch 1/2  step 4/20  loss 2.5000  lr 1.00e-03  ")
    for word in ("images/s", "data wait", "memory", "eta 0:00:00"):
        assert word in lines[1]
    assert "train loss 5.5000  raw: Loss 1.5000 Top1 50.00% Top5 90.00%  ema: Loss 2.5000 Top1 25.00%" in lines[3]
    table = rows(tmp_path)
    assert [(row["kind"], row["step"]) for row in table] == [
        ("step", "4"), ("step", "8"), ("epoch", "10"), ("step", "12"), ("step", "16"), ("step", "20"), ("epoch", "20"),
    ]  # fmt: skip
    assert [float(row["train_loss"]) for row in table] == [2.5, 6.5, 5.5, 10.5, 14.5, 18.5, 15.5]
    assert (table[2]["val_top1"], table[2]["ema_top1"], table[0]["val_top1"]) == ("0.5", "0.25", "")
    assert float(table[0]["epoch"]) == 0.4
    assert float(table[0]["images_per_second"]) > 0
    parsed = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["train_loss"] for row in parsed] == [2.5, 6.5, 5.5, 10.5, 14.5, 18.5, 15.5]
    assert parsed[0]["val_top1"] is None


def test_memory_is_left_out_where_the_platform_does_not_know_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("t2t_vit.training.measurements.peak_resident_memory", lambda: None)
    state, screen = State(10, 2, 20), io.StringIO()
    history, console = History(tmp_path), Console(tmp_path / "train.log", live=False)
    follow(Journal(state, console, instruments=Instruments(), every=4, history=history), state)
    said = capsys.readouterr().err
    assert "data wait" in said and "memory" not in said and "nan" not in said
    state = State(10, 2, 20)
    terminal = RichConsole(file=screen, force_terminal=True, width=140)
    follow(LiveBar(state, console, interval=0.0, terminal=terminal), state)
    assert "img/s" in screen.getvalue()
    assert "nan" not in screen.getvalue() and " GB" not in screen.getvalue()
    console.close()


def test_the_first_lines_do_not_wait_for_many_slow_steps_and_are_no_rows(tmp_path, capsys):
    """Steps of 4 seconds, the first of which compiles for 100."""
    state = State(20, 1, 20)
    state.clock = FakeClock()
    journal = Journal(state, Console(live=False), every=10, history=History(tmp_path))
    for seconds in (100.0, *[4.0] * 19):
        state.step += 1
        state.clock.training += seconds
        state.clock.elapsed += seconds
        journal.on_step(state, metrics(float(state.step)))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 1/20", "step 4/20", "step 10/20", "step 20/20"]
    assert lines[0].endswith("  the first step took 0:01:40")
    assert "loss 3.0000" in lines[1] and "4 images/s" in lines[1] and lines[1].endswith("eta 0:01:04")
    assert [(row["step"], row["train_loss"]) for row in rows(tmp_path)] == [("10", "5.5"), ("20", "15.5")]


class Norms:
    """What was measured at some steps."""

    def __init__(self, known):
        self.known = known

    def read(self, step):
        return self.known.get(step, (math.nan, math.nan))

    def state_dict(self):
        return self.known

    def load_state_dict(self, state):
        self.known = state


def test_every_column_holds_its_own_number(tmp_path, capsys, monkeypatch):
    """Two updates in 4 seconds of training, of which 1 was waiting, and an evaluation of 6 seconds."""
    monkeypatch.setattr("t2t_vit.training.measurements.peak_memory", lambda _: 2.5e9)
    state = State(2, 3, 6, step=2)
    state.clock = FakeClock()
    instruments = Instruments(processes=3, norms=Norms({4: (11.0, 0.125)}), utilisation=Utilisation(10, 1000.0))
    journal = Journal(state, Console(live=False), instruments=instruments, every=2, history=History(tmp_path))
    for loss, norm in ((1.0, 5.0), (2.0, 7.0)):
        state.step, state.lr = state.step + 1, 0.25
        state.clock.training += 2.0
        state.clock.waiting += 0.5
        state.clock.elapsed += 2.0
        journal.on_step(state, metrics(loss, norm, scale=8.0 * state.step))
    state.clock.elapsed += 6.0
    state.record({"raw": Metrics(1.5, 0.5, 0.9, 10), "ema": Metrics(2.5, 0.25, 0.75, 10)})
    journal.on_epoch(state)
    known = {
        "epoch": 2.0, "step": 4, "lr": 0.25, "train_loss": 1.5, "grad_norm": 7.0, "param_norm": 11.0,
        "update_norm": 0.125, "skipped": 0, "images_per_second": 3 * 32 / 4, "data_wait": 0.25,
        "mfu": 32 / 4 * 10 / 1000, "memory": 2.5e9,
    }  # fmt: skip
    none = dict.fromkeys(COLUMNS)
    evaluated = {"val_loss": 1.5, "val_top1": 0.5, "val_top5": 0.9, "ema_loss": 2.5, "ema_top1": 0.25, "ema_top5": 0.75}
    step, epoch = (json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines())
    assert step == none | known | {"kind": "step"}
    assert epoch == none | known | evaluated | {"kind": "epoch", "seconds": 10.0}
    _, *told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        "epoch 2/3  step 4/6  loss 1.5000  lr 2.50e-01  24 images/s  data wait 25%  MFU 8.0%  memory 2.5 GB  "
        "loss scale 32  eta 0:00:04"
    )
    assert told[1] == (
        "epoch 2/3  step 4  train loss 1.5000  raw: Loss 1.5000 Top1 50.00% Top5 90.00%  "
        "ema: Loss 2.5000 Top1 25.00% Top5 75.00%  time 0:00:10"
    )


def test_the_next_epoch_has_its_own_time_and_numbers(tmp_path):
    state = State(1, 3, 3)
    state.clock = FakeClock()
    journal = Journal(state, Console(live=False), every=1, history=History(tmp_path))
    for seconds in (4.0, 1.0):
        state.step += 1
        state.clock.training += seconds
        state.clock.elapsed += seconds
        journal.on_step(state, metrics(seconds))
        journal.on_epoch(state)
    table = rows(tmp_path)
    assert [float(row["seconds"]) for row in table if row["kind"] == "epoch"] == [4.0, 1.0]
    assert [float(row["images_per_second"]) for row in table] == [4, 4, 16, 16]
    assert [float(row["train_loss"]) for row in table] == [4, 4, 1, 1]


def test_what_was_skipped_is_counted_in_the_rows(tmp_path):
    state = State(4, 1, 4)
    journal = Journal(state, Console(live=False), every=4, history=History(tmp_path))
    for loss, norm in ((1.0, 3.0), (math.nan, math.nan), (3.0, 2.0), (5.0, math.inf)):
        state.step += 1
        journal.on_step(state, metrics(loss, norm))
    (row,) = rows(tmp_path)
    assert (row["skipped"], row["train_loss"], row["grad_norm"]) == ("2", "2.0", "3.0")


def test_a_continued_run_goes_on_with_the_numbers_of_the_stopped_one():
    """Its updates count, but took no time of this run."""
    state = State(10, 1, 10, step=3)
    state.clock = FakeClock()
    first, norms = StepWindow(state), Norms({3: (1.0, 2.0)})
    for loss in (2.0, 4.0, 6.0):
        first.add(metrics(loss, norm=loss, scale=loss))
    second = StepWindow(state)
    second.load_state_dict(first.state_dict())
    second.add(metrics(8.0, norm=1.0, scale=16.0))
    state.clock.training = 2.0
    reading = second.read()
    assert (reading.loss, reading.grad_norm, reading.scale) == (5.0, 6.0, 16.0)
    assert (reading.images_per_second, reading.seconds_per_step) == (8.0, 2.0)
    journal = Journal(state, Console(live=False), instruments=Instruments(norms=norms))
    again = Journal(state, Console(live=False), instruments=Instruments(norms=Norms({})))
    again.load_state_dict(journal.state_dict())
    assert again.state_dict()["norms"] == {3: (1.0, 2.0)}


def test_memory_is_in_bytes():
    """This process, with torch in it, has more than 64 MiB and less than a machine."""
    assert 2**26 < peak_memory(torch.device("cpu")) < 2**42


def test_the_bar_shows_its_own_numbers(monkeypatch):
    monkeypatch.setattr("t2t_vit.training.measurements.peak_memory", lambda _: 2.5e9)
    state = State(2, 3, 6, step=2)
    state.clock = FakeClock()
    screen = io.StringIO()
    terminal = RichConsole(file=screen, force_terminal=True, width=160, color_system=None)
    bar = LiveBar(state, Console(live=True), interval=0.0, terminal=terminal)
    state.step, state.lr, state.clock.training, state.clock.waiting = 3, 0.25, 2.0, 0.5
    bar.on_step(state, metrics(1.5, 7.0))
    bar.on_epoch(state)
    bar.close()
    shown = screen.getvalue()
    for part in ("epoch 2/3", "3/6", "loss 1.500 lr 2.5e-01 8 img/s wait 25% 2.5 GB eta 0:00:06"):
        assert part in shown


def test_no_lines_between_epochs_and_no_ema(tmp_path, capsys):
    state = State(10, 2, 20)
    follow(Journal(state, Console(live=False), every=0, history=History(tmp_path)), state, with_ema=False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "ema" not in lines[0]
    assert rows(tmp_path)[0]["ema_top1"] == ""


def test_what_was_skipped_is_said_and_left_out_of_the_mean(capsys):
    state = State(10, 1, 10)
    journal = Journal(state, Console(live=False), every=4)
    for loss, norm in ((1.0, 1.0), (math.nan, math.nan), (3.0, 2.0), (math.inf, math.inf)):
        state.step += 1
        journal.on_step(state, metrics(loss, norm, scale=512.0))
    _, line = capsys.readouterr().err.splitlines()
    assert "loss 2.0000" in line
    assert "2 updates skipped (gradient not finite)" in line
    assert "loss scale 512" in line


def test_a_window_reads_once_and_starts_anew():
    state = State(10, 1, 10)
    window = StepWindow(state)
    window.add(metrics(math.nan, math.nan))
    reading = window.read()
    assert math.isnan(reading.loss)
    assert reading.skipped == 1
    window.add(metrics(2.0))
    assert window.read().loss == 2.0


def test_a_run_that_goes_on_keeps_its_rows_and_one_that_begins_again_does_not(tmp_path):
    first = History(tmp_path)
    for step in (5, 10, 15):
        first.add({"kind": "step", "step": step, "train_loss": math.nan})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"kind": "st')  # cut short by a crash
    History(tmp_path, resumed_at=10).add({"kind": "step", "step": 11})
    assert [row["step"] for row in rows(tmp_path)] == ["5", "10", "11"]
    assert rows(tmp_path)[0]["train_loss"] == ""
    assert tuple(rows(tmp_path)[0]) == COLUMNS
    History(tmp_path)
    assert rows(tmp_path) == []


def test_a_history_that_is_none_is_one_sentence(tmp_path):
    for break_it in (lambda path: path.mkdir(), lambda path: path.write_bytes(b"[" * (2**20 + 1))):
        path = tmp_path / "history.jsonl"
        break_it(path)
        with pytest.raises(
            UserError, match=r"history.jsonl: cannot be read \(.*\); remove it to continue without its rows"
        ):
            History(tmp_path, 2)
        assert [one.name for one in tmp_path.iterdir()] == ["history.jsonl"]  # no half of a file
        path.unlink() if path.is_file() else path.rmdir()
    History(tmp_path, 2)  # as the sentence says


def test_a_full_disk_does_not_end_the_training(tmp_path, capsys):
    state = State(10, 2, 20)
    history, console = History(tmp_path), Console(tmp_path / "train.log", live=False)
    for path in (tmp_path / "history.csv", tmp_path / "history.jsonl"):
        path.unlink()
        path.mkdir()
    follow(Journal(state, console, every=4, history=history), state)
    assert capsys.readouterr().err.count("training continues without writing more rows") == 1
    console.close()


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="logs_root_dir"):
        Console(tmp_path / "file" / "train.log")


def test_held_lines_wait_and_no_log_is_opened(tmp_path, capsys):
    console = Console(tmp_path / "train.log", live=False, held=True)
    console.line("early")
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())
    console.begin()
    console.line("late")
    console.close()
    assert capsys.readouterr().err == (tmp_path / "train.log").read_text() == "early\nlate\n"


def test_the_bar_shows_the_numbers_and_the_lines_scroll_above(tmp_path, capsys):
    state = State(10, 2, 20)
    screen = io.StringIO()
    terminal = RichConsole(file=screen, force_terminal=True, width=140)
    console = Console(tmp_path / "train.log", live=True)
    bar = LiveBar(state, console, interval=0.0, terminal=terminal)
    console.line("a line [with brackets]")
    console.detail("only in the log")
    follow(bar, state)
    shown = screen.getvalue()
    assert "a line [with brackets]" in shown
    assert "only in the log" not in shown
    assert "only in the log" in (tmp_path / "train.log").read_text()
    assert "20/20" in shown
    assert "img/s" in shown
    console.line("after the bar")
    assert capsys.readouterr().err == "after the bar\n"
    console.close()
    console.line("the screen still works")
    assert "the screen" not in (tmp_path / "train.log").read_text()


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 59.6, 3661, 360000)] == [
        "0:00:00",
        "0:01:00",
        "1:01:01",
        "100:00:00",
    ]
