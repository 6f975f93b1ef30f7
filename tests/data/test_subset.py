import numpy as np
import pytest

from t2t_vit.data.images import ArrayImages
from t2t_vit.data.subset import subset
from t2t_vit.errors import UserError


def unbalanced() -> ArrayImages:
    targets = np.repeat(np.arange(3), [2, 50, 48])
    return ArrayImages(np.zeros((100, 2, 2), np.uint8), targets, "abc", "L", "toy")


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
