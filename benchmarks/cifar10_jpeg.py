"""CIFAR-10 as JPEG files of quality 75, from an archive of them, a folder for each class: train/CLASS and test/CLASS.

    python benchmarks/cifar10_jpeg.py cifar10_jpeg_q75.npz cifar10
    OMP_NUM_THREADS=1 t2t-vit train t2t_vit_s_6_cifar10 --dataset ImageNet --data_url cifar10 --val_dir test

The archive holds `header`, which all files begin with, `data`, the rest of each after the other, `length`, `label` and
`train`. Results on it are of "CIFAR-10 (JPEG q75)": its images are 27 to 33 dB from the originals.

Beside them, for fine-tuning to new classes: `known`, all training images of the first five classes, and `new`, 60 of
each of the other five; both with 200 test images of each class in `test`.
"""

import argparse
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NEW, TESTED = 60, 200  # images of each class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    with np.load(arguments.archive, allow_pickle=False) as held:
        header, data = held["header"].tobytes(), held["data"].tobytes()
        length, label, train = held["length"].astype(np.int64), held["label"], held["train"].astype(bool)
    ends = np.cumsum(length)
    for number, (end, size) in enumerate(zip(ends, length, strict=True)):
        folder = arguments.folder / ("train" if train[number] else "test") / CLASSES[label[number]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.jpg").write_bytes(header + data[end - size : end])
    draw = random.Random(0)
    for number, name in enumerate(CLASSES):
        train_files, test_files = (sorted((arguments.folder / part / name).iterdir()) for part in ("train", "test"))
        place = arguments.folder / ("known" if number < 5 else "new")
        link(train_files if number < 5 else draw.sample(train_files, NEW), place / "train" / name)
        link(test_files[:TESTED], place / "test" / name)


def link(files: Sequence[Path], folder: Path) -> None:
    """The same files once more, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        os.link(file, folder / file.name)


if __name__ == "__main__":
    main()
