"""Two processes over gloo on the CPU against one, on the same batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2t_vit.evaluation.metrics import evaluate
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.distributed import Processes, connected, from_environment, leave, share_gradients
from t2t_vit.training.loop import train
from t2t_vit.training.optimizer import create_optimizer
from t2t_vit.training.scaler import LossScaler
from t2t_vit.training.schedule import Schedule
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
