"""Two processes stop early, report the best weights, run out of time and find a batch size as one does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
NAME = "t2t_vit_quickstart"
RUN: dict[str, object] = {
    "arch": NAME, "image_size": 28, "in_chans": 1, "mean": 0.5, "std": 0.5, "dataset": "FashionMNIST",
    "train_num_samples": 40, "val_num_samples": 61, "epochs": 40, "warmup_length": 0, "num_parallel_workers": 0,
    "pynative_mode": True, "device_target": "CPU", "with_ema": True, "ema_decay": 0.9, "auto_augment": "",
    "print_loss_every": 1, "base_lr": 0.003, "lr_scheduler": "constant_lr",
}  # fmt: skip
ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


def train(place: Path, processes: int, **keys: object) -> str:
    """What the run says."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    line = [*(launcher if processes > 1 else []), str(ROOT / "train.py")]
    done = subprocess.run(
        [sys.executable, *line, *(f"--{name}={value}" for name, value in (RUN | keys).items())],
        cwd=place, env=ALONE | {"OMP_NUM_THREADS": "1"}, text=True, capture_output=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def evaluation(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / f"runs/logs/{NAME}/evaluation.json").read_text())
    return found


def rows(place: Path) -> list[dict[str, Any]]:
    lines = (place / f"runs/logs/{NAME}/history.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "epoch"]


def test_two_stop_early_and_report_the_best(tmp_path: Path) -> None:
    said = train(tmp_path, 2, patience=2, best_by="macro_f1", batch_size=4)
    assert said.count("early stopping: the last 2 evaluations had no better macro_f1 than the one at step") == 1
    scores = [max(row["val_macro_f1"], row["ema_macro_f1"]) for row in rows(tmp_path)]
    found = evaluation(tmp_path)
    best = [row["step"] for row in rows(tmp_path)].index(found["step"])
    assert scores[best] == max(scores) and len(scores) < 40
    # Both processes measured with the first one's weights: each image once, and the same figures as the checkpoint's.
    assert found["count"] == 61 and found["top1"] == found["scores"][found["weights"]]["top1"]
    assert found["loss"] == pytest.approx(found["scores"][found["weights"]]["loss"], rel=1e-5)


@pytest.mark.thorough
def test_the_time_is_up_for_both_at_the_same_step(tmp_path: Path) -> None:
    said = train(tmp_path, 2, max_hours=1e-9, batch_size=4)
    assert said.count("the run ends here") == 1
    (row,) = rows(tmp_path)
    assert row["step"] <= 2 and row["val_top1"] is not None
    said = train(tmp_path, 2, max_hours=0, resume="auto", epochs=1, batch_size=4)
    assert rows(tmp_path)[-1]["step"] == 5


@pytest.mark.thorough
def test_the_first_one_finds_the_batch_for_both(tmp_path: Path) -> None:
    said = train(tmp_path, 2, batch_size="auto", epochs=1)
    assert len(re.findall(r"batch_size auto: 20 \(estimated, cpu\)", said)) == 1
    held = torch.load(tmp_path / f"runs/checkpoints/{NAME}/{NAME}-1_1.ckpt", weights_only=True)
    assert (held["config"]["batch_size"], held["data"]["images_per_update"]) == (20, 40)
