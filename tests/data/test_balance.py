"""Epochs in which every class comes as often."""

import numpy as np
import torch

from t2t_vit.data.batch_transform import BatchTransform
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import ArrayImages
from t2t_vit.data.loader import TrainLoader, balanced_order
from t2t_vit.data.preprocessing import Preprocessing

COUNTS = (80, 3, 0, 17)


def targets() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))


def test_as_often_as_each_other_and_every_image_as_often_within_a_class() -> None:
    labels = targets()
    order = balanced_order(labels, np.random.default_rng(1))
    assert len(order) == len(labels) == 100
    shares = np.bincount(labels[order % 100], minlength=4)
    assert sorted(shares[[0, 1, 3]]) == [33, 33, 34]
    assert shares[2] == 0
    for label in (0, 1, 3):
        turns = np.bincount(order[labels[order % 100] == label] % 100, minlength=100)[labels == label]
        assert turns.max() - turns.min() <= 1
    assert len(set(order.tolist())) == 100  # no number comes twice: a repeated image is augmented otherwise


def test_every_epoch_shows_another_part_of_a_large_class() -> None:
    labels = targets()
    seen = [set(balanced_order(labels, np.random.default_rng(seed)) % 100) for seed in range(12)]
    assert set.union(*seen) == set(range(100))
    assert seen[0] != seen[1]


def test_turns_and_classes_stand_in_random_order() -> None:
    labels = targets()
    more = set()
    for seed in range(12):
        order = balanced_order(labels, np.random.default_rng(seed))
        more.add(int(np.bincount(labels[order % 100], minlength=4).argmax()))
        rare = order[labels[order % 100] == 1]
        assert sorted(np.bincount(rare // 100).tolist(), reverse=True) == [3] * 11 + [1] * (len(rare) == 34)
        blocks = np.bincount(labels[order[:40] % 100], minlength=4)[[0, 1, 3]]
        assert blocks.min() > 3  # not one class after the other
    assert more == {0, 1, 3}  # which class has one more is drawn, too


def loader(workers: int = 0, rank: int = 0, world: int = 1, batch_size: int = 12) -> TrainLoader:
    labels = targets()
    pixels = np.random.default_rng(2).integers(0, 256, (100, 8, 8, 3), dtype=np.uint8)
    images = ArrayImages(pixels, labels, "abcd", "RGB", "noise")
    transform = TrainTransform((8, 8), min_crop=0.3, color_jitter=0.0, auto_augment="")
    batch = BatchTransform(Preprocessing((8, 8)), 4, seed=3)
    return TrainLoader(
        images, transform, batch, batch_size=batch_size, balanced=True, workers=workers, rank=rank, world=world
    )


def test_the_loader_is_the_same_for_any_number_of_workers_and_processes() -> None:
    alone = list(loader().epoch(4))
    assert len(alone) == 8
    by_worker = list(loader(workers=1).epoch(4, start=5))
    for (images, labels), (same, same_labels) in zip(alone[5:], by_worker, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
    halves = [list(loader(rank=rank, world=2, batch_size=6).epoch(4)) for rank in (0, 1)]
    for whole, first, second in zip(alone, *halves, strict=True):
        assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
    share = torch.cat([labels for _, labels in alone]).mean(0)
    assert share[1] > 0.25  # 3 % of the images, a third of the batches


def test_images_of_later_turns_have_names_too() -> None:
    names = loader().names(0, 0, 8)
    assert len(names) == 96
    assert all(name.startswith("noise image ") for name in names)
