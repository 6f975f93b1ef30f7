"""What the training loader delivers with two workers, and what it costs the main process.

    python benchmarks/loader_rate.py SIZE [POLICY]

reads the embedded images as 3 x SIZE x SIZE, in batches of 64, through `auto_augment` POLICY, for eight seconds.
"""

import sys
import time

import torch

from t2t_vit.data.batch_transform import BatchTransform
from t2t_vit.data.datasets import open_images
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.loader import TrainLoader
from t2t_vit.data.preprocessing import Preprocessing

SECONDS = 8


def main(size: int, policy: str) -> None:
    """Print one line."""
    torch.set_num_threads(1)
    transform = BatchTransform(Preprocessing((size, size)), 10)
    images = open_images("train", dataset="FashionMNIST", in_chans=3)
    loader = TrainLoader(images, TrainTransform((size, size), auto_augment=policy), transform, batch_size=64, workers=2)
    began = time.monotonic()
    batches = loader._read(loader._requests)  # as they arrive, before they are normalised and mixed
    next(batches)
    first = time.monotonic() - began
    for _ in range(4):
        next(batches)
    began, spent, count = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < SECONDS:
        count += len(next(batches).targets)
    rate, cost = count / (time.monotonic() - began), 1e6 * (time.process_time() - spent) / count
    print(f"first batch after {first:.2f} s, {rate:.0f} images/s, main process {cost:.0f} microseconds an image")


main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
