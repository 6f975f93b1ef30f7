"""What a teacher costs: processor time of an update of `t2t_vit_quickstart` without one and with one, in turn.

    python benchmarks/teacher.py [--teacher t2t_vit_7] [--amp_level O0|bf16] [--rounds 7]

Random images of 28 pixels, 64 a batch, one thread, the least of all rounds.
"""

import argparse
import tempfile
import time

import numpy as np
import torch

from t2t_vit.assembly import build
from t2t_vit.assembly.teacher import guidance_of, open_teacher
from t2t_vit.data.images import ArrayImages
from t2t_vit.model import create_model
from t2t_vit.notes import silent
from t2t_vit.precision import choose_precision
from t2t_vit.settings.schema import Config
from t2t_vit.training.distributed import Processes
from t2t_vit.training.step import TrainStep

CPU, CLASSES, BATCH = torch.device("cpu"), [str(number) for number in range(10)], 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="t2t_vit_quickstart")
    parser.add_argument("--amp_level", default="O0", choices=("O0", "bf16"))
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        create_model(asked.teacher, num_classes=10, image_size=28).save_pretrained(folder, classes=CLASSES)
        steps = {distill: step(distill, folder, asked.amp_level) for distill in ("none", "soft", "hard", "dense")}
    images, targets = torch.randn(BATCH, 3, 28, 28), torch.full((BATCH, 10), 0.1)
    seconds: dict[str, list[float]] = {distill: [] for distill in steps}
    for number in range(asked.rounds):
        for distill, one in steps.items():
            began = time.process_time()
            one([(images, targets)], number)
            seconds[distill].append(time.process_time() - began)
    for distill, values in seconds.items():
        print(f"distill {distill:<6} {min(values) * 1000:6.0f} ms  {min(values) / min(seconds['none']):.2f} x")


def step(distill: str, teacher: str, amp_level: str) -> TrainStep:
    config = Config(
        arch="t2t_vit_quickstart",
        image_size=28,
        distill=distill,
        teacher=teacher,
        pynative_mode=True,
        amp_level=amp_level,
        mixup=0.0,
        cutmix=0.0,
    )
    precision = choose_precision(amp_level, CPU, training=True)
    model = build.network(config, len(CLASSES))
    precision.prepare(model)
    counted = ArrayImages(np.zeros((10, 1, 1), np.uint8), np.arange(10), CLASSES, "RGB", "made up")
    guidance = guidance_of(config, open_teacher(config, CLASSES, precision, silent), CPU)
    trained = build.trained_of(config, model, precision)
    return build.step_of(config, trained, counted, precision, Processes(), silent, guidance)


if __name__ == "__main__":
    main()
