"""The golden traces: 20 updates of a tiny network with everything random switched on, under two sets of settings.

The second one has a mean and a deviation for each of three channels, all different, and the tanh GELU: it sees two of
them exchanged, or the wrong kind of GELU, where the first one does not.

`python tests/golden_trace.py` prints how far this machine is from the traces in the repository. `--write NAME` replaces
one: only where the training is meant to have changed, with a line in docs/log.md that says why.
"""

import csv
import json
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

from t2t_vit.cli.main import main

FOLDER = Path(__file__).parent / "golden/trace"
COLUMNS = ("lr", "train_loss", "grad_norm")
QUICKSTART: dict[str, object] = {
    "arch": "t2t_vit_quickstart", "image_size": 28, "in_chans": 1, "mean": 0.5, "std": 0.5,
    "dataset": "FashionMNIST", "train_num_samples": 90, "val_num_samples": 30, "batch_size": 4, "accumulation_step": 2,
    "epochs": 2, "max_steps": 20, "warmup_length": 1, "base_lr": 2e-3, "seed": 7,
    "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5, "re_count": 2, "mixup": 0.8, "cutmix": 1,
    "mixup_mode": "elem", "label_smoothing": 0.1,
    "drop": 0.1, "drop_path": 0.1, "drop_block": 0.1, "performer_drop": 0.1,
    "use_clip_grad_norm": True, "clip_grad_norm": 1, "with_ema": True, "ema_decay": 0.9,
    "amp_level": "O0", "device_target": "CPU", "pynative_mode": True, "num_parallel_workers": 0, "print_loss_every": 1,
}  # fmt: skip
TRACES: dict[str, dict[str, object]] = {
    "quickstart": QUICKSTART,
    "colour": QUICKSTART | {
        "in_chans": 3, "mean": "[0.31, 0.42, 0.57]", "std": "[0.19, 0.26, 0.38]", "disable_approximate_gelu": False,
    },
}  # fmt: skip


def golden(name: str) -> dict[str, list[float]]:
    """The trace of this name in the repository."""
    trace: dict[str, list[float]] = json.loads((FOLDER / f"{name}.json").read_text())
    return trace


def trace(name: str) -> dict[str, list[float]]:
    """Learning rates, losses and gradient norms of each update, and the two evaluations at the end."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        code = main(["train", *(f"--{key}={value}" for key, value in TRACES[name].items())])
        if code:
            raise SystemExit(code)
        with Path(f"runs/logs/{TRACES[name]['arch']}/history.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["kind"] == "step"]
    last = [row for row in rows if row["kind"] == "epoch"][-1]
    columns = {column: [float(row[column]) for row in steps] for column in COLUMNS}
    return columns | {"val_loss": [float(last["val_loss"])], "ema_loss": [float(last["ema_loss"])]}


def deviation(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> float:
    """The largest relative difference of any number."""
    pairs = [pair for name in theirs for pair in zip(ours[name], theirs[name], strict=True)]
    return max(abs(own - other) / max(abs(other), 1e-12) for own, other in pairs)


if __name__ == "__main__":
    written = sys.argv[2:] if sys.argv[1:2] == ["--write"] else []
    for name in TRACES:
        found = trace(name)
        if name in written:
            (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        sys.stdout.write(f"largest relative difference to {name}: {deviation(found, golden(name)):.1e}\n")
