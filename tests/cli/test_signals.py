"""Runs that are killed, as processes: exit codes, what they saved, what they said, and what they left running."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from t2t_vit.cli.launch import IN_PART, _explained, exit_code
from t2t_vit.cli.main import main

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--config_path", "quickstart", "--train_num_samples", "200", "--val_num_samples", "20", "--batch_size", "4",
    "--epochs", "99", "--print_loss_every", "1", "--pynative_mode", "True", "--device_target", "CPU",
    "--amp_level", "O0", "--ckpt_save_every_seconds", "0",
]  # fmt: skip
CHECKPOINTS = "runs/quickstart/checkpoints"


@dataclass
class Run:
    """A command in a session of its own, and what it has said."""

    process: subprocess.Popen[str]
    place: Path
    said: str = ""

    def wait_for(self, pattern: str) -> None:
        """Read on until a line matches."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if re.search(pattern, line):
                return
        raise AssertionError(f"ended without '{pattern}':\n{self.said}")

    def end(self) -> tuple[int, str]:
        """The exit code and everything that was said."""
        _, rest = self.process.communicate(timeout=120)
        self.said += rest
        return self.process.returncode, self.said

    def tree(self) -> list[int]:
        """The processes that it started, and those that they did."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                _, after = stat.read_text().rsplit(")", 1)
            except OSError:
                continue
            parents[int(stat.parent.name)] = int(after.split()[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*words: str, script: str = "") -> Run:
        command = [str(ROOT / "scripts" / script), "quickstart"] if script else [sys.executable, str(ROOT / "train.py")]
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        options = OPTIONS[2:] if script else OPTIONS
        process = subprocess.Popen(
            [*command, *([*words[:2], "--extra"] if script else []), *options, *(words[2:] if script else words)],
            cwd=tmp_path, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        runs.append(Run(process, tmp_path))
        return runs[-1]

    yield start
    for run in runs:
        for pid in [*run.tree(), run.process.pid] if run.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)


def steps(place: Path) -> list[int]:
    return sorted(int(path.stem.rpartition("_")[2]) for path in (place / CHECKPOINTS).rglob("*-*.ckpt"))


def last_step(said: str) -> int:
    return max(int(step) for step in re.findall(r" step (\d+)/", said))


def check(run: Run, code: int, *, more: int = 0) -> None:
    """It ended with `code`, saved the step that it was at, said so, and left nothing running."""
    tree = run.tree()
    ended, said = run.end()
    assert ended == code, said
    assert "Traceback" not in said
    (saved,) = steps(run.place)
    assert last_step(said) <= saved <= last_step(said) + more
    assert re.search(rf"stopped at step {saved}; .*_{saved}\.ckpt; .*--resume auto", said)
    assert len(re.findall("t2t-vit: ", said)) == 1
    assert_gone(tree)


def test_sigterm_to_the_whole_group_with_workers(start: Callable[..., Run]) -> None:
    run = start("--num_parallel_workers", "2")
    run.wait_for(r"step 2/")
    os.killpg(run.process.pid, signal.SIGTERM)
    check(run, 143)


def test_sigusr1_and_the_continued_run_begins_past_the_saved_step(start: Callable[..., Run]) -> None:
    run = start("--num_parallel_workers", "0")
    run.wait_for(r"step 2/")
    run.process.send_signal(signal.SIGUSR1)
    check(run, 138)
    (saved,) = steps(run.place)
    more = start("--num_parallel_workers", "0", "--resume", "auto")
    more.wait_for(r" step \d+/")
    assert last_step(more.said) == saved + 1
    more.process.send_signal(signal.SIGINT)
    code, said = more.end()
    assert (code, "Traceback" in said) == (130, False)


def test_ctrl_c_while_the_workers_start(start: Callable[..., Run]) -> None:
    run = start("--num_parallel_workers", "1")
    run.wait_for(r"trainable parameters")
    tree = run.tree()
    os.killpg(run.process.pid, signal.SIGINT)
    code, said = run.end()
    assert code == 130, said
    assert "Traceback" not in said
    assert steps(run.place) == []
    assert_gone(tree)


def test_workers_do_not_outlive_a_main_process_that_was_killed(start: Callable[..., Run]) -> None:
    run = start("--num_parallel_workers", "1")
    run.wait_for(r"step 1/")
    tree = run.tree()
    assert len(tree) >= 2
    run.process.kill()
    code, said = run.end()
    assert (code, "Traceback" in said) == (-9, False), said
    assert_gone(tree)


def test_a_killed_worker_is_named_after_a_checkpoint(start: Callable[..., Run]) -> None:
    run = start("--num_parallel_workers", "1")
    run.wait_for(r"step 1/")
    os.kill(max(run.tree()), signal.SIGKILL)
    code, said = run.end()
    assert code == 2, said
    assert "data worker process was killed by SIGKILL" in said
    assert f"t2t_vit_s_4-1_{steps(run.place)[-1]}.ckpt" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param("SIGTERM", 143, marks=pytest.mark.thorough), ("SIGUSR1", 138)]
)
def test_two_processes_stop_after_the_same_step(start: Callable[..., Run], number: str, code: int) -> None:
    run = start("--num_devices", "2", "--num_parallel_workers", "0", script="run_distribute_train_gpu.sh")
    run.wait_for(r"step 2/")
    if number == "SIGUSR1":
        ranks = [pid for pid in run.tree() if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(ranks[-1], signal.SIGUSR1)  # only one of them hears it
    else:
        os.killpg(run.process.pid, signal.SIGTERM)
    check(run, code, more=1)


def test_a_mistake_in_two_processes_is_said_once(start: Callable[..., Run]) -> None:
    words = ["--num_devices", "2", "--dataset", "ImageNet", "--data_url", "nowhere"]
    code, said = start(*words, script="run_distribute_train_gpu.sh").end()
    assert (code, said.count("nowhere"), said.count("\n")) == (2, 1, 1), said


def test_the_exit_code_of_several() -> None:
    assert exit_code([1, 2]) == 2
    assert exit_code([-15]) == 143
    assert exit_code([138, 138]) == 138


def test_what_several_did_in_part_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("t2t_vit.training.distributed.leave", codes.append)
    monkeypatch.setattr("t2t_vit.cli.main._exit_code", lambda _: 1)
    assert main([]) == 1 and codes == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    main([])
    assert codes == [IN_PART]
    assert _explained({0: IN_PART}) == 1
    assert capfd.readouterr().err == ""
    assert _explained({1: 1}) == 1  # a traceback
    assert "process 1 ended with exit code 1" in capfd.readouterr().err
