"""Two processes against one on the same batches; how processes find each other, and end with their launcher."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore, PrefixStore

from t2t_vit.evaluation.metrics import evaluate
from t2t_vit.training import distributed
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.distributed import Processes, connected, from_environment, leave, of_this_attempt, share_gradients
from t2t_vit.training.loop import train
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.optimizer import Schedule, create_optimizer
from t2t_vit.training.state import State
from t2t_vit.training.step import TrainStep

CPU = torch.device("cpu")


class Sharded:
    """Each process's part of the global batches of the toy loader."""

    def __init__(self, loader, processes):
        self.loader, self.processes = loader, processes

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start=0):
        mine = slice(self.processes.rank, None, self.processes.count)
        for images, targets in self.loader.epoch(epoch, start):
            yield images[mine], targets[mine]


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_step(self, _, metrics):
        self.values.append(metrics.loss.item())


def job(model, loader):
    """A short run and an evaluation with uneven shares: (losses, (top1, top5, count), weights)."""
    torch.set_num_threads(1)
    processes = from_environment()
    losses = Losses()
    with connected(processes, CPU):
        if not processes.is_first:
            with torch.no_grad():
                model.head.weight.fill_(7.0)  # the first one's weights win
        step = TrainStep(
            share_gradients(model, processes, CPU), create_optimizer(model, "adamw", lr=0.01),
            scaler=LossScaler(CPU, 64.0, dynamic=True), accumulation=2, clip_norm=1.0, mean=processes.mean,
        )  # fmt: skip
        state = State.begin(len(loader), accumulation=2, epochs=2)
        schedule = Schedule("constant_lr", 0.01, 2, state.updates_per_epoch)
        train(step, Sharded(loader, processes), schedule, state, callbacks=[losses], rank=processes.rank)
        images, targets = next(type(loader)(batch_size=101).epoch(9))
        share = slice(None) if processes.count == 1 else (slice(0, 70), slice(70, 101))[processes.rank]
        metrics = evaluate(model, [(images[share], targets[share])], reduce=processes.sum)
    return losses.values, [metrics.top1, metrics.top5, metrics.count], model.head.weight.flatten().tolist()


def main(folder):
    """What each process that torchrun starts does."""
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import Toy, ToyLoader

    torch.manual_seed(0)
    result = job(Toy(), ToyLoader())
    (Path(folder) / f"{from_environment().rank}.json").write_text(json.dumps(result))
    leave(0)


def test_two_processes_are_one(tmp_path, make_model, make_loader, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone",
        __file__, str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    losses, counts, weights = job(make_model(), make_loader())
    for rank in (0, 1):
        their_losses, their_counts, their_weights = json.loads((tmp_path / f"{rank}.json").read_text())
        assert their_losses == pytest.approx(losses, abs=1e-5)
        assert their_counts == counts
        assert their_weights == pytest.approx(weights, abs=1e-4)


def test_one_process_needs_no_group(make_model, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    processes = from_environment()
    assert processes == Processes(0, 1, 0)
    assert processes.is_first
    model, ones = make_model(), torch.ones(2)
    assert share_gradients(model, processes, CPU) is model
    assert torch.equal(processes.sum(ones), ones)
    assert torch.equal(processes.mean(ones), ones)


if __name__ == "__main__":
    main(sys.argv[1])


LONG = timedelta(minutes=10)  # on a busy machine; nobody waits for it


def test_each_attempt_has_a_store_of_its_own() -> None:
    store = HashStore()
    for attempt in ("one", "two", "three"):
        with ThreadPoolExecutor(3) as pool:
            parts = list(pool.map(lambda rank: of_this_attempt(store, rank, 3, LONG), range(3)))
        assert all(isinstance(part, PrefixStore) for part in parts)
        assert not parts[1].check(["address"])
        parts[0].set("address", attempt)
        assert {part.get("address").decode() for part in parts} == {attempt}


def test_one_that_never_comes_is_an_error() -> None:
    store = HashStore()
    store.set("hello/1", "of a dead one")
    with pytest.raises(TimeoutError, match="of 2 processes, 1 did not join"):
        of_this_attempt(store, 0, 2, timedelta(seconds=0.2))


END = "from t2t_vit.training.distributed import end_with_launcher; end_with_launcher()"
CHILD = f"{END}; print('on', flush=True); input()"
LAUNCHER = f"""
import subprocess, sys, time
line = [sys.executable, "-c", {CHILD!r}]
child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_a_process_dies_with_its_launcher() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        child = Path(f"/proc/{launcher.stdout.readline().strip()}/stat")
        assert child.exists()
        launcher.send_signal(signal.SIGKILL)
    until = time.monotonic() + 300
    while child.exists() and child.read_text(encoding="utf-8").split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.exists() or child.read_text(encoding="utf-8").split()[2] == "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
@pytest.mark.parametrize(("by_torchrun", "code"), [(True, 128 + signal.SIGKILL), (False, 0)])
def test_a_process_that_another_took_in_ends_at_once(by_torchrun: bool, code: int) -> None:
    """Its launcher died while it started; here the shell is who takes in orphans, or who launches without torchrun."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(END)}; exit $?"],
        env={**environment, "TORCHELASTIC_RUN_ID": "none"} if by_torchrun else environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith("the launcher of this process has ended") == by_torchrun


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_a_python_may_be_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert distributed._may_have_launched(os.getpid())
