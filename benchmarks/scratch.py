"""`t2t-vit train scratch` compared with ultralytics' and timm's small networks, at the same processor seconds.

    python benchmarks/scratch.py IMAGES --work FOLDER --ultralytics PYTHON --output FILE.json

IMAGES holds the folders of `CLASSES`; those of Debian's package openclipart-png, unpacked:

    apt-get download openclipart-png && dpkg-deb -x openclipart-png_*.deb clipart
    python benchmarks/scratch.py clipart/usr/share/openclipart/png ...

They are divided once, by their names, into FOLDER/data/train and FOLDER/data/val, which everybody reads. Left out are
links (the same image in two classes) and the few images of more than 50 million pixels: decoding them again in every
epoch would be most of what the rivals pay. PYTHON is that of an environment with ultralytics; timm is ours.

Every run is a process of its own on one thread, without workers. Its processor seconds are all that it and its children
took, from the start of Python to the last evaluation. How many epochs fit into a budget stands in `EPOCHS`, which
belongs to our machine; the seconds that were taken stand in the results. Runs that FILE.json holds are not repeated.

What is natural: everything stays at its default but the network, the size of the images, the number of epochs, the
seed and the device. Ultralytics reports its best epoch, the others their last one.
"""

import ast
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from PIL import Image

from t2t_vit.bench.circumstances import circumstances
from t2t_vit.files import atomic_write

CLASSES = (
    "animals", "buildings", "food", "geography", "office", "people", "plants", "recreation", "tools", "transportation",
)  # fmt: skip
KEPT = 0.2  # share of each class for validation
MOST_PIXELS = 50_000_000
SIZE = 64  # pixels that the rivals see; at 224, their default, two epochs would fill the smaller budget
OURS = "t2t-vit scratch"
# Contestant -> epochs that fill each budget of processor seconds; the rivals' are rounded up.
EPOCHS: dict[str, dict[int, int]] = {
    OURS: {150: 20, 250: 34},
    "yolo11n-cls": {150: 10, 250: 18},
    "yolov8n-cls": {150: 10, 250: 18},
    "resnet18": {150: 6, 250: 11},
    "vit_tiny_patch16_224": {150: 8, 250: 15},
}
ULTRALYTICS = """
import sys
from ultralytics import YOLO
network, data, epochs, size, seed, folder = sys.argv[1:]
model = YOLO(network + ".yaml")
model.train(data=data, epochs=int(epochs), imgsz=int(size), seed=int(seed), device="cpu", workers=0, project=folder)
print("top1", model.trainer.metrics["metrics/accuracy_top1"])
"""
TIMM = """
import sys, torch, timm
from timm.optim import create_optimizer_v2
from torchvision.datasets import ImageFolder
network, data, epochs, size, seed, _ = sys.argv[1:]
torch.manual_seed(int(seed))
sizes = {"img_size": int(size)} if network.startswith("vit") else {}
model = timm.create_model(network, num_classes=len(ImageFolder(data + "/train").classes), **sizes)
config = {**timm.data.resolve_data_config(model=model), "input_size": (3, int(size), int(size))}
train = ImageFolder(data + "/train", timm.data.create_transform(**config, is_training=True))
val = ImageFolder(data + "/val", timm.data.create_transform(**config))
batches = torch.utils.data.DataLoader(train, 64, shuffle=True, drop_last=True)
steps = int(epochs) * len(batches)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
for _ in range(int(epochs)):
    for images, targets in batches:
        torch.nn.functional.cross_entropy(model(images), targets, label_smoothing=0.1).backward()
        optimizer.step(), optimizer.zero_grad(), rate.step()
model.eval()
with torch.inference_mode():
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in torch.utils.data.DataLoader(val, 64))
print("top1", right / len(val))
"""


def divide(source: Path, target: Path) -> None:
    """The images of each class as target/train/CLASS and target/val/CLASS, chosen by a hash of their names."""
    Image.MAX_IMAGE_PIXELS = None
    for name in CLASSES:
        files = [path for path in (source / name).rglob("*.png") if not path.is_symlink()]
        files.sort(key=lambda path: hashlib.sha256(str(path.relative_to(source)).encode()).digest())
        for number, path in enumerate(files):
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    continue
            part = "val" if number < round(KEPT * len(files)) else "train"
            copy = target / part / name / str(path.relative_to(source / name)).replace("/", "_")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def command(contestant: str, data: Path, epochs: int, seed: int, folder: Path, ultralytics: str) -> list[str]:
    """The words that start a run."""
    if contestant == OURS:
        words = f"train scratch --data_url {data} --epochs {epochs} --seed {seed} --num_parallel_workers 0"
        roots = [f"--{kind}_root_dir={folder / kind}" for kind in ("summary", "ckpt", "best_ckpt", "logs")]
        program = "from t2t_vit.cli.main import main; raise SystemExit(main())"
        return [sys.executable, "-c", program, *words.split(), *roots]
    python, program = (ultralytics, ULTRALYTICS) if contestant.startswith("yolo") else (sys.executable, TIMM)
    return [python, "-c", program, contestant, str(data), str(epochs), str(SIZE), str(seed), str(folder)]


def measure(words: list[str], log: Path) -> tuple[float, str]:
    """Run a command on one thread: the processor seconds of it and of its children, and what it printed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors, log.with_suffix(".out").open("w") as output:
        process = subprocess.Popen(
            words,
            stdout=output,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"},
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{words} ended with {process.returncode}; see {log}")
    return used.ru_utime + used.ru_stime, log.with_suffix(".out").read_text()


def accuracy(contestant: str, output: str, folder: Path) -> float:
    """Top-1 in percent, from what a run left."""
    if contestant == OURS:
        (found,) = (folder / "logs").glob("*/evaluation.json")
        evaluation = json.loads(found.read_text())
        return 100 * evaluation["scores"][evaluation["weights"]]["top1"]
    return 100 * float(ast.literal_eval(output.rsplit("top1", 1)[1].split()[0]))


def rows(runs: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: contestants by budget, mean, lowest and highest accuracy, and the mean of the seconds taken."""
    lines = ["| contestant | budget, CPU s | taken | epochs | top-1, mean % | seeds |", "|---|---|---|---|---|---|"]
    for budget in sorted({run["budget"] for run in runs}):
        for contestant in EPOCHS:
            mine = [run for run in runs if (run["contestant"], run["budget"]) == (contestant, budget)]
            if mine:
                top1 = [run["top1"] for run in mine]
                seconds = statistics.mean(run["cpu_seconds"] for run in mine)
                each = ", ".join(f"{value:.1f}" for value in top1)
                lines.append(
                    f"| {contestant} | {budget} | {seconds:.0f} | {mine[0]['epochs']} | "
                    f"{statistics.mean(top1):.1f} | {each} |"
                )
    return lines


def main() -> None:
    """Make the runs that are not in the results yet, and print the table."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ultralytics", default=sys.executable)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--contestants", nargs="+", default=[*EPOCHS], choices=[*EPOCHS])
    parser.add_argument("--budgets", nargs="+", type=int, default=[150, 250], choices=[150, 250])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    data = given.work / "data"
    if not data.exists():
        divide(given.images, data)
    results = json.loads(given.output.read_text()) if given.output.exists() else {"runs": []}
    done = {(run["contestant"], run["budget"], run["seed"]) for run in results["runs"]}
    wanted = [
        (contestant, budget, seed)
        for seed in given.seeds
        for contestant in given.contestants
        for budget in given.budgets
        if (contestant, budget, seed) not in done
    ]
    for contestant, budget, seed in wanted:
        epochs = EPOCHS[contestant][budget]
        folder = given.work / "runs" / f"{contestant.replace(' ', '_')}_{budget}_{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        words = command(contestant, data, epochs, seed, folder, given.ultralytics)
        seconds, output = measure(words, folder / "log.txt")
        run = {
            "contestant": contestant,
            "budget": budget,
            "seed": seed,
            "epochs": epochs,
            "cpu_seconds": round(seconds, 1),
            "top1": round(accuracy(contestant, output, folder), 2),
        }
        print(run, flush=True)
        results["runs"].append(run)
        results["circumstances"] = circumstances(sys.argv)
        with atomic_write(given.output, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    print("\n".join(rows(results["runs"])))


if __name__ == "__main__":
    main()
