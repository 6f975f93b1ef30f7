"""CIFAR-10 as JPEG files of quality 75, from an archive of them, a folder for each class: train/CLASS and test/CLASS.

    python benchmarks/cifar10_jpeg.py cifar10_jpeg_q75.npz cifar10
    OMP_NUM_THREADS=1 t2t-vit train t2t_vit_s_6_cifar10 --dataset ImageNet --data_url cifar10 --val_dir test

The archive holds `header`, which all files begin with, `data`, the rest of each after the other, `length`, `label` and
`train`. Results on it are of "CIFAR-10 (JPEG q75)": its images are 27 to 33 dB from the originals.
"""

import argparse
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


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


if __name__ == "__main__":
    main()
