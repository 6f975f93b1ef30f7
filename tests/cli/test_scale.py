"""One process, two on "two machines", and two of which one is killed: the same run, whatever is switched on."""

import ast
import csv
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2t_vit.cli.main import main
from t2t_vit.weights import read_weights

ROOT = Path(__file__).parents[2]
NAME = "t2t_vit_quickstart"
STEPS = 20
# Everything random is on. An update is 2 batches, of 6 images or of 2 x 3: a pair of images then spans both processes.
RUN: dict[str, object] = {
    "arch": NAME, "image_size": 28, "in_chans": 1, "mean": 0.5, "std": 0.5,
    "dataset": "FashionMNIST", "train_num_samples": 136, "val_num_samples": 21,
    "epochs": 2, "max_steps": STEPS, "warmup_length": 1, "accumulation_step": 2, "num_parallel_workers": 0,
    "pynative_mode": True, "device_target": "CPU", "amp_level": "O0", "with_ema": True, "ema_decay": 0.8,
    "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5, "mixup": 0.8, "cutmix": 1, "mixup_mode": "pair",
    "drop": 0.1, "drop_path": 0.1, "drop_block": 0.1, "performer_drop": 0.1,
    "use_clip_grad_norm": True, "clip_grad_norm": 1, "print_loss_every": 1, "ckpt_save_every_step": 5,
}  # fmt: skip
ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
# What torchrun starts: the command, but process 1 dies after 12 updates, without a word, unless it was started again.
MORTAL = """
import os, signal, sys
from t2t_vit.cli.main import main
from t2t_vit.training.callbacks import Callbacks

told = Callbacks.on_step
def on_step(self, state, metrics):
    told(self, state, metrics)
    if state.step == 12 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
Callbacks.on_step = on_step
sys.exit(main(sys.argv[1:]))
"""

# The same, but process 0 finds a mistake of the user's after 3 updates, while the others know of none.
MISTAKEN = """
import os, sys
from t2t_vit.cli.main import main
from t2t_vit.errors import UserError
from t2t_vit.training.callbacks import Callbacks

told = Callbacks.on_step
def on_step(self, state, metrics):
    told(self, state, metrics)
    if state.step == 3 and os.environ["RANK"] == "0":
        raise UserError("the disk is full")
Callbacks.on_step = on_step
sys.exit(main(sys.argv[1:]))
"""


def words(**keys: object) -> list[str]:
    return [f"--{key}={value}" for key, value in keys.items()]


def torchrun(place: Path, line: list[str], *program: str) -> "subprocess.Popen[str]":
    """torchrun with one thread a process, at work in `place`."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *line, *program],
        cwd=place, env=ALONE | {"OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(started: "subprocess.Popen[str]") -> tuple[str, str]:
    try:
        out, err = started.communicate(timeout=280)
    finally:
        started.kill()
    assert started.returncode == 0, err[-3000:]
    return out, err


def losses(place: Path) -> list[float]:
    with (place / f"runs/logs/{NAME}/history.csv").open(newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row["kind"] == "step"]


def final(place: Path) -> dict[str, torch.Tensor]:
    weights = read_weights(place / f"runs/checkpoints/{NAME}/{NAME}-2_{STEPS}.ckpt", which="raw")
    return dict(weights.tensors)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        assert main(["train", *words(batch_size=6, **RUN)]) == 0
    torch.set_num_threads(threads)
    return place


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents that find each other by rendezvous, as on two machines, with a process each."""
    place = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    line = [
        "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=1",
    ]  # fmt: skip
    agents = [torchrun(place, line, str(ROOT / "train.py"), *words(batch_size=3, **RUN)) for _ in range(2)]
    said = [finished(agent)[1] for agent in agents]
    assert sum("2 x cpu" in err for err in said) == 1  # the first process speaks, and it alone
    return place


def test_two_processes_have_the_losses_of_one(one_process: Path, two_machines: Path) -> None:
    alone, shared = losses(one_process), losses(two_machines)
    assert len(alone) == STEPS
    assert shared == pytest.approx(alone, abs=2e-5)
    for name, tensor in final(one_process).items():
        torch.testing.assert_close(final(two_machines)[name], tensor, atol=2e-3, rtol=1e-2)


@pytest.mark.thorough
def test_a_killed_worker_is_started_again_and_the_run_ends_as_if_nothing_had_been(
    two_machines: Path, tmp_path: Path
) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL)
    line = ["--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    keys = words(batch_size=3, resume="auto", **RUN)
    finished(torchrun(tmp_path, line, "mortal.py", "train", *keys))
    assert losses(tmp_path) == losses(two_machines)
    straight = final(two_machines)
    assert all(torch.equal(straight[name], tensor) for name, tensor in final(tmp_path).items())
    log = (tmp_path / f"runs/logs/{NAME}/train.log").read_text()
    assert re.search(r"continuing .*_1[01]\.ckpt", log)


@pytest.mark.thorough
def test_a_mistake_that_one_process_finds_ends_all_with_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "mistaken.py").write_text(MISTAKEN)
    line = ["-m", "t2t_vit.cli.launch", "--standalone", "--nproc-per-node=2", "mistaken.py", "train"]
    done = subprocess.run(
        [sys.executable, *line, *words(batch_size=3, **RUN)],
        cwd=tmp_path, env=ALONE | {"OMP_NUM_THREADS": "1"}, text=True, capture_output=True, check=False, timeout=280,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("t2t-vit: the disk is full\n")) == (2, 1), done.stderr
    assert "Traceback" not in done.stderr


def test_eval_by_three_processes_counts_as_one(one_process: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = f"runs/checkpoints/{NAME}/{NAME}-2_{STEPS}.ckpt"
    keys = words(pretrained=file, device_target="CPU", amp_level="O0", val_num_samples=1003, num_parallel_workers=0)
    line = ["--standalone", "--nproc-per-node=3"]
    started = torchrun(one_process, line, str(ROOT / "eval.py"), *keys, "--batch_size=7")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(one_process)
        assert main(["eval", *keys, "--batch_size=64"]) == 0
    alone, shared = results(capsys.readouterr().out), results(finished(started)[0])
    assert shared.pop("Loss") == pytest.approx(alone.pop("Loss"), abs=1e-6)
    assert shared == alone
    assert alone["Top1-Acc"] * 1003 == pytest.approx(round(alone["Top1-Acc"] * 1003), abs=1e-9)


def results(out: str) -> dict[str, float]:
    (line,) = re.findall("^eval results: .*$", out, re.MULTILINE)  # printed once, by the first process
    found: dict[str, float] = ast.literal_eval(line.removeprefix("eval results: "))
    return found
