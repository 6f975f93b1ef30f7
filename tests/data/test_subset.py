import numpy as np
import pytest

from t2t_vit.data.datasets import SPLITS, open_images, open_training_images
from t2t_vit.data.images import ArrayImages, ImageSet, Subset, subset
from t2t_vit.errors import UserError


def unbalanced() -> ArrayImages:
    targets = np.repeat(np.arange(3), [2, 50, 48])
    return ArrayImages(np.zeros((100, 2, 2), np.uint8), targets, "abc", "L", "toy")


def names(images: ImageSet) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def test_training_and_evaluation_draw_the_same_images() -> None:
    """By their seeds alone, whichever door they come through."""
    whole = {part: open_images(part, dataset="FashionMNIST") for part in SPLITS}
    seen = []
    for seed in (0, 3):
        both = open_training_images(
            dataset="FashionMNIST", train_num_samples=40, val_num_samples=30, seed=seed, val_seed=seed + 1, split_seed=3
        )
        for part, count, own, images in zip(SPLITS, (40, 30), (seed, seed + 1), both, strict=True):
            one = open_images(part, dataset="FashionMNIST", num_samples=count, seed=own, split_seed=3)
            assert names(images) == names(one) == names(subset(whole[part], count, own))
            assert np.array_equal(images.targets, one.targets)
            seen.append(names(images))
    assert seen[0] != seen[2] and seen[1] != seen[3]


def test_the_images_of_a_subset_are_those_at_its_indices() -> None:
    pixels = np.arange(6, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    base = ArrayImages(pixels, np.array([2, 0, 1, 1, 0, 2]), "abc", "L", "toy")
    part = Subset(base, np.array([5, 2, 3, 1]))
    assert names(part) == [f"toy image {index}" for index in (5, 2, 3, 1)]
    assert [part.read(index).getpixel((0, 0)) for index in range(4)] == [5, 2, 3, 1]
    assert part.targets.tolist() == [2, 1, 1, 0] and part.classes == ("a", "b", "c") and len(part) == 4


def test_a_seed_draws_within_a_class_and_which_class_has_one_more() -> None:
    images = unbalanced()
    parts = [subset(images, 31, seed) for seed in range(12)]
    more = {tuple(np.bincount(part.targets, minlength=3)) for part in parts}
    assert more == {(2, 14, 15), (2, 15, 14)}
    for part in parts:
        assert names(part) == sorted(names(part), key=lambda name: int(name.split()[-1]))  # in the order of the set
    assert max(int(name.split()[-1]) for name in names(parts[0])) > 90  # not the first ones of each class


def test_subset_is_balanced_seeded_and_bounded() -> None:
    images = unbalanced()
    part = subset(images, 31, seed=1)
    counts = np.bincount(part.targets, minlength=3)
    assert counts[0] == 2
    assert sorted(counts[1:].tolist()) == [14, 15]
    names = [part.name(i) for i in range(31)]
    assert len(set(names)) == 31
    assert names == [subset(images, 31, seed=1).name(i) for i in range(31)]
    assert names != [subset(images, 31, seed=2).name(i) for i in range(31)]
    assert subset(images, -1, seed=0) is images
    assert len(subset(images, 100, seed=0)) == 100
    assert part.read(0).size == (2, 2)
    for count in (101, 0, -2):
        with pytest.raises(UserError, match=f"val_num_samples is {count} but there are 100 images"):
            subset(images, count, 0, "val_num_samples")
