"""The speed of this machine: start-up, network, training step, data. Prints a table, writes it as JSON.

    make bench            or: .venv/bin/python benchmarks/run.py [OUTPUT.json]

Each figure is the median of several runs, with the fastest and the slowest; on a busy machine the spread tells.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from turns import ROOT, circumstances, write

from t2t_vit import create_model
from t2t_vit.data.batch_transform import BatchTransform
from t2t_vit.data.embedded import fashion_mnist
from t2t_vit.data.loader import TrainLoader
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.transforms import TrainTransform
from t2t_vit.precision import choose_device, choose_precision

COMMAND = Path(sys.executable).with_name("t2t-vit")


def main() -> None:
    rows = [*start_up(), *forward(), *training_step(), data()]
    report = {**circumstances(), "command": "make bench", "results": rows}
    output = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks/results" / f"{report['date'][:10]}-bench.json"
    )
    write(report, output)
    for row in rows:
        print(f"{row['what']:<58}{row['median']:>10.4g} {row['unit']:<9} ({row['low']:.4g} to {row['high']:.4g})")
    print(output)


def measured(what: str, unit: str, run: Callable[[], float], times: int = 5) -> dict[str, Any]:
    """Median, least and greatest of what `run` returns; the first run warms up."""
    run()
    values = sorted(run() for _ in range(times))
    return {"what": what, "unit": unit, "median": statistics.median(values), "low": values[0], "high": values[-1]}


def start_up() -> list[dict[str, Any]]:
    def seconds(*words: str) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            subprocess.run([COMMAND, *words], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start

        return run

    return [
        measured(" ".join(["t2t-vit", *words]), "s", seconds(*words)) for words in (("--help",), ("train", "--help"))
    ]


def images_per_second(batch: int, run: Callable[[], object], device: torch.device) -> Callable[[], float]:
    def rate() -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return batch / (time.perf_counter() - start)

    return rate


def forward() -> list[dict[str, Any]]:
    device, rows, batch = choose_device("auto"), [], 8
    for arch in ("t2t_vit_14", "t2t_vit_t_14"):
        model = create_model(arch).to(device).eval()
        images = torch.randn(batch, 3, 224, 224, device=device)
        for level in ("O0", "bf16"):
            precision = choose_precision(level, device, training=False)

            @torch.inference_mode()
            def run(model=model, images=images, precision=precision) -> None:  # type: ignore[no-untyped-def]
                with precision.autocast():
                    model(images)

            what = f"forward {arch} 224 px, batch {batch}, {level}, {device.type}"
            rows.append(measured(what, "images/s", images_per_second(batch, run, device)))
    return rows


def training_step() -> list[dict[str, Any]]:
    device, rows, batch = choose_device("auto"), [], 8
    model = create_model("t2t_vit_14").to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch, 3, 224, 224, device=device)
    targets = torch.zeros(batch, dtype=torch.int64, device=device)
    for level in ("O0", "bf16"):
        precision = choose_precision(level, device, training=True)

        def run(precision=precision) -> None:  # type: ignore[no-untyped-def]
            with precision.autocast():
                logits = model(images)
            cross_entropy(logits.float(), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

        what = f"training step t2t_vit_14 224 px, batch {batch}, {level}, eager, {device.type}"
        rows.append(measured(what, "images/s", images_per_second(batch, run, device), times=3))
    return rows


def data() -> dict[str, Any]:
    images = fashion_mnist("train", "L")
    preprocessing = Preprocessing((28, 28), in_chans=1)
    loader = TrainLoader(
        images, TrainTransform((28, 28), in_chans=1), BatchTransform(preprocessing, len(images.classes)), batch_size=128
    )

    def run() -> float:
        start = time.perf_counter()
        count = sum(len(batch) for batch, _ in loader.epoch(0))
        return count / (time.perf_counter() - start)

    return measured("training data, 28 px in memory, crop and flip, no workers", "images/s", run, times=3)


if __name__ == "__main__":
    main()
