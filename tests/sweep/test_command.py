"""`t2t-vit sweep`: what it prints, what it refuses before anything starts, and how it goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from t2t_vit.cli.main import main
from t2t_vit.errors import UserError
from t2t_vit.settings.command_line import parse
from t2t_vit.sweep import process, study
from t2t_vit.sweep.record import check, enter
from t2t_vit.sweep.space import read_over
from t2t_vit.sweep.study import Plan
from t2t_vit.training.run import Lock

KEYS = (
    "dataset: FashionMNIST\ntrain_num_samples: 64\nval_num_samples: 100\nbase_lr: 0.5\nepochs: 2\nwarmup_length: 1\n"
    "arch: t2t_vit_quickstart\nimage_size: 28\nin_chans: 1\nmean: [0.286]\nstd: [0.353]\nbatch_size: 32\n"
    "num_parallel_workers: 0\npynative_mode: True\namp_level: O0\ndevice_target: CPU\ncrop_pct: 1.0\n"
)


@pytest.fixture
def config(here: Path) -> Path:
    (here / "small.yaml").write_text(KEYS)
    return here


def run(*words: str) -> int:
    return main(["sweep", "small.yaml", *words])


def test_table_command_and_comparison(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert config.exists()
    assert run("--over", "base_lr=0.5,0.7", "--beta", "0.8", "0.9", "--seed", "3", "--seeds", "2") == 0
    out, err = capsys.readouterr()
    assert "a new sweep, 2 combinations of 2 runs each, 1 at a time" in err
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["trial", "base_lr"], ["1", "0.7"], ["0", "0.5"]]
    assert lines[3] == "best: trial 1, top1 80.35 %"
    command = lines[4].removeprefix("train it: ")
    program, train, *words = shlex.split(command)
    assert (program, train) == ("t2t-vit", "train")
    assert parse("train", words).line == {"beta": (0.8, 0.9), "base_lr": 0.7, "seed": 3}
    assert lines[5].startswith(
        "compared with the values of the configuration itself, trial 0: trial-0001/seed-3 (2 seeds) is better than "
        "trial-0000/seed-3 (2 seeds): its top-1 is 16.00"
    )
    assert Path("runs/sweeps/t2t_vit_quickstart/comparison.html").is_file()
    assert run("--over", "base_lr=0.5,0.7", "--beta", "0.8", "0.9", "--seed", "3", "--seeds", "2", "--json") == 0
    out, err = capsys.readouterr()
    assert "the sweep continues" in err
    content = json.loads(out)
    assert (content["best"], content["command"]) == (1, command)
    assert [trial["mean"] for trial in content["trials"]] == pytest.approx([0.8035, 0.6435])


def test_a_default_outside_of_the_space_is_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert config.exists()
    assert run("--over", "base_lr=0.6..0.9:log", "--trials", "2", "--json") == 0
    assert "comparison" not in json.loads(capsys.readouterr().out)
    assert run("--over", "base_lr=0.6..0.9:log", "--trials", "2") == 0
    assert "not compared with the values of the configuration itself (base_lr 0.5)" in capsys.readouterr().out


def test_another_sweep_is_not_mixed_in(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--over", "base_lr=0.7", "--folder", "s") == 0
    assert run("--over", "base_lr=0.8", "--folder", "s") == 2
    assert "s: belongs to another sweep (with another over)" in capsys.readouterr().err
    (config / "small.yaml").write_text(KEYS.replace("epochs: 2", "epochs: 3"))
    assert run("--over", "base_lr=0.7", "--folder", "s") == 2
    assert "s: belongs to another sweep (with another epochs)" in capsys.readouterr().err
    (config / "full").mkdir()
    (config / "full/file").touch()
    assert run("--over", "base_lr=0.7", "--folder", "full") == 2
    assert "full: holds files that do not belong to a sweep" in capsys.readouterr().err


def test_a_sweep_goes_on_with_more_trials_and_more_values(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a part of the combinations to all of them, and on to those of a third value; nothing is trained twice."""
    assert run("--over", "base_lr=0.5,0.7", "--trials", "1") == 0
    assert "tried" not in capsys.readouterr().out
    assert run("--over", "base_lr=0.5,0.7", "--trials", "20") == 0
    out, err = capsys.readouterr()
    assert "--trials 20: there are 2 combinations, and each is tried once" in err
    assert "the sweep continues, 2 combinations, 1 at a time" in err
    assert "all combinations were tried (2); more values in --over continue the sweep" in out
    assert run("--over", "base_lr=0.9,0.5,0.7") == 0
    out, err = capsys.readouterr()
    assert "the sweep continues, 3 combinations" in err
    assert "all combinations were tried (3)" in out
    assert len((config / "started").read_text().splitlines()) == 3
    held = json.loads((config / "runs/sweeps/t2t_vit_quickstart/sweep.json").read_text())
    assert held["over"] == ["base_lr=0.9,0.5,0.7"]
    assert run("--over", "base_lr=0.5,0.7") == 2
    assert "belongs to another sweep (with another over)" in capsys.readouterr().err


def test_what_an_older_version_wrote_goes_on(config: Path) -> None:
    assert run("--over", "base_lr=0.5,0.7", "--folder", "s") == 0
    path = config / "s/sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"grid": True}))
    assert run("--over", "base_lr=0.5,0.7", "--folder", "s") == 0
    held = json.loads(path.read_text())
    held["configuration"] |= {"max_pixels": 178_956_970}  # the default before it was 0
    del held["configuration"]["val_seed"]  # a key that was not there
    path.write_text(json.dumps(held))
    assert run("--over", "base_lr=0.5,0.7", "--folder", "s") == 0
    assert len((config / "started").read_text().splitlines()) == 2
    path.write_text(json.dumps(held | {"configuration": held["configuration"] | {"max_pixels": 1000}}))
    assert run("--over", "base_lr=0.5,0.7", "--folder", "s") == 2


def test_values_are_not_added_while_a_trial_is_trained(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--over", "base_lr=0.7", "--folder", "s") == 0
    works = Lock(print)
    works.take(config / "s/trial-0000", fresh=False)
    assert run("--over", "base_lr=0.7,0.5", "--folder", "s") == 2
    assert "s: trial-0000 is being trained; stop its sweep or wait for it, then add values" in capsys.readouterr().err
    works.release()
    assert run("--over", "base_lr=0.7,0.5", "--folder", "s") == 0


def test_a_sweep_notices_that_its_folder_has_another_one_now(config: Path) -> None:
    """Two commands begin at one moment in one folder, or one adds values while the other waits for its turn."""
    folder, first = config / "s", {"over": ["base_lr=0.5,0.7"], "trials": 2}
    enter(folder, first, print)
    check(folder, first | {"trials": 9})
    enter(folder, {"over": ["base_lr=0.5,0.7,0.9"], "trials": 3}, print)
    with pytest.raises(UserError, match="s: another command has begun another sweep in it, or continued this one with"):
        check(folder, first)
    plan = Plan(read_over(first["over"]), 2, (0,), None, True, False, "none", 2)
    with pytest.raises(UserError, match="another command"):
        study.Study(folder, plan, 0, partial(check, folder, first))


def test_only_one_command_at_a_time_decides_what_a_folder_holds(config: Path) -> None:
    folder, ended = config / "s", threading.Event()
    folder.mkdir()
    decides = Lock(print)
    decides.take(folder, fresh=False)

    def other() -> None:
        enter(folder, {"over": []}, print)
        ended.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert not ended.wait(0.5)
    assert not (folder / "sweep.json").exists()
    decides.release()
    thread.join()
    assert ended.is_set()


def test_a_sweep_that_never_began_is_replaced(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config / "never-begins").touch()
    assert run("--over", "base_lr=0.7", "--folder", "s") == 2
    assert "the first run of the sweep cannot begin: data_url is wrong" in capsys.readouterr().err
    (config / "never-begins").unlink()
    assert run("--over", "base_lr=0.7", "--folder", "s", "--mixup", "0.5") == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "sweep needs keys to vary: --over KEY=V1,V2,..."),
        (("--over", "bas_lr=1"), "--over: unknown key 'bas_lr'; did you mean 'base_lr'?"),
        (("--over", "drop_path=0.1,2"), "--over drop_path takes a number of at least 0 and below 1; not '2'"),
        (("--over", "base_lr=0.1..0.2"), "give the number of trials with --trials N"),
        (("--over", "base_lr=1", "--base_lr", "2"), "--base_lr and --over base_lr contradict each other"),
        (("--over", "base_lr=1", "--resume", "auto"), "--resume: the sweep decides it"),
        (("--over", "seed=0..3", "--over", "base_lr=1"), "--over seed takes single seeds"),
        (("--over", "seed=0,1", "--seeds", "2", "--over", "base_lr=1"), "--seeds and --over seed contradict"),
        (("--over", "amp_level=O0,O3"), "with amp_level O3: amp_level O3 is for inference only"),
        (("--over", "base_lr=1", "--prune", "maybe"), "--prune takes one of median, hyperband, none; not 'maybe'"),
        (("--over", "base_lr=1", "--jobs", "0"), "--jobs takes a whole number of at least 1"),
        (("--over",), "--over needs a value"),
    ],
)
def test_mistakes_are_found_before_anything_starts(
    config: Path, words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
    assert not (config / "runs").exists()


def test_a_pipe_as_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(config / "pipe")
    writer = threading.Thread(target=(config / "pipe").write_text, args=(KEYS,))
    writer.start()
    assert main(["sweep", "pipe", "--over", "base_lr=0.1,0.2"]) == 2
    writer.join()
    assert "pipe: every run of a sweep reads the configuration; name a file" in capsys.readouterr().err


def test_modules_of_the_current_folder_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("json.py", "argparse.py", "zlib.py"):
        (tmp_path / name).write_text("raise SystemExit('it was run')")
    line = [sys.executable, "-c", process.training_program(), "--version"]
    assert subprocess.run(line, check=False).returncode == 0
    assert capfd.readouterr().out.startswith("t2t-vit ")


def test_without_optuna(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "find_spec", lambda _: None)
    assert run("--over", "base_lr=0.1,0.2") == 2
    assert "sweep: optuna is not installed; install it with: pip install" in capsys.readouterr().err
    assert not (config / "runs").exists()


def test_a_signal_says_how_to_go_on(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config / "wait-3").touch()

    def stop() -> None:
        while not (config / "started").exists():  # the training waits in its third epoch
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    words = ("--over", "base_lr=0.5,0.7", "--beta", "0.8", "0.9", "--seeds", "2", "--json")
    assert run(*words) == 128 + signal.SIGTERM
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("stopped; this command continues the sweep: ")]
    (config / "wait-3").unlink()
    assert main(shlex.split(line.partition("sweep: ")[2])[1:]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == 1


@pytest.mark.thorough
def test_kill_9_of_a_sweep_of_real_trainings_is_exact(tmp_path: Path) -> None:
    """The sweep alone is killed, and then all that it started; what the third start ends with is as of one start."""
    (tmp_path / "small.yaml").write_text(KEYS)
    program = "import sys; from t2t_vit.cli.main import main; sys.exit(main())"
    words = ["sweep", "small.yaml", "--over", "base_lr=1e-4..1e-2:log", "--trials", "3", "--json", "--prune", "none",
             "--ckpt_save_every_step", "1"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder: str) -> "subprocess.Popen[bytes]":
        line = [sys.executable, "-c", program, *words, "--folder", folder]
        return subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def finished(folder: str) -> list[dict[str, Any]]:
        out, _ = start(folder).communicate()
        trials: list[dict[str, Any]] = json.loads(out)["trials"]
        return [{name: value for name, value in each.items() if name != "seconds"} for each in trials]

    def checkpoints(folder: str, trial: int) -> list[Path]:
        return sorted(tmp_path.glob(f"{folder}/trial-{trial:04d}/seed-0/checkpoints/*/*-*_*.ckpt"))

    def rows(folder: str, trial: int) -> list[dict[str, Any]]:
        (path,) = tmp_path.glob(f"{folder}/trial-{trial:04d}/seed-0/logs/*/history.jsonl")
        names = ("kind", "step", "lr", "train_loss", "grad_norm", "val_loss", "val_top1")
        return [{name: row[name] for name in names} for row in map(json.loads, path.read_text().splitlines())]

    for trial, whole_tree in ((0, False), (1, True)):
        sweep = start("killed")
        while not checkpoints("killed", trial):
            assert sweep.poll() is None
            time.sleep(0.05)
        sweep.kill()
        sweep.communicate()
        for path in Path("/proc").glob("[0-9]*/cmdline") if whole_tree else ():
            try:
                is_its = f"{tmp_path.name}".encode() in (path.parent / "cwd").readlink().name.encode()
            except OSError:
                continue
            if is_its and b"--logs_root_dir=killed" in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
    assert finished("killed") == finished("whole")
    for trial in range(3):
        assert rows("killed", trial) == rows("whole", trial)
        assert [path.name for path in checkpoints("killed", trial)] == [p.name for p in checkpoints("whole", trial)]
