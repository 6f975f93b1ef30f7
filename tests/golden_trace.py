"""The golden trace: 20 updates of a tiny network with everything random switched on.

`python tests/golden_trace.py` says how far this machine is from the trace in the repository. With `--write` its own
takes the place of that one: only where the training is meant to have changed, with a line in docs/log.md that says why.
"""

import csv
import json
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

from t2t_vit.cli.main import main

FILE = Path(__file__).parent / "golden/trace/quickstart.json"
COLUMNS = ("lr", "train_loss", "grad_norm")
KEYS: dict[str, object] = {
    "arch": "t2t_vit_quickstart", "image_size": 28, "in_chans": 1, "mean": 0.5, "std": 0.5,
    "dataset": "FashionMNIST", "train_num_samples": 90, "val_num_samples": 30, "batch_size": 4, "accumulation_step": 2,
    "epochs": 2, "max_steps": 20, "warmup_length": 1, "base_lr": 2e-3, "seed": 7,
    "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5, "re_count": 2, "mixup": 0.8, "cutmix": 1,
    "mixup_mode": "elem", "label_smoothing": 0.1,
    "drop": 0.1, "drop_path": 0.1, "drop_block": 0.1, "performer_drop": 0.1,
    "use_clip_grad_norm": True, "clip_grad_norm": 1, "with_ema": True, "ema_decay": 0.9,
    "amp_level": "O0", "device_target": "CPU", "pynative_mode": True, "num_parallel_workers": 0, "print_loss_every": 1,
}  # fmt: skip


def trace() -> dict[str, list[float]]:
    """Learning rates, losses and gradient norms of each update, and the two evaluations at the end."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        code = main(["train", *(f"--{key}={value}" for key, value in KEYS.items())])
        if code:
            raise SystemExit(code)
        with Path(f"runs/logs/{KEYS['arch']}/history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["kind"] == "step"]
    last = [row for row in rows if row["kind"] == "epoch"][-1]
    columns = {name: [float(row[name]) for row in steps] for name in COLUMNS}
    return columns | {"val_loss": [float(last["val_loss"])], "ema_loss": [float(last["ema_loss"])]}


def deviation(ours: dict[str, list[float]], golden: dict[str, list[float]]) -> float:
    """The largest relative difference of any number."""
    pairs = [pair for name in golden for pair in zip(ours[name], golden[name], strict=True)]
    return max(abs(own - other) / max(abs(other), 1e-12) for own, other in pairs)


if __name__ == "__main__":
    found = trace()
    if "--write" in sys.argv:
        FILE.write_text(json.dumps(found, indent=1) + "\n")
    largest = deviation(found, json.loads(FILE.read_text()))
    sys.stdout.write(f"largest relative difference to {FILE.name}: {largest:.1e}\n")
