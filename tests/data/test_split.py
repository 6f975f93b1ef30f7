"""The share of a folder that is kept for validation."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2t_vit.data.folder import FolderImages, split
from t2t_vit.errors import UserError


def photos(folder: Path, counts: dict[str, int]) -> FolderImages:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("L", (2, 2)).save(folder / name / f"{i:03d}.png")
    return FolderImages(folder, "RGB")


def kept(images: FolderImages, share: float = 0.1, seed: int = 0) -> set[str]:
    train, val = split(images, share, seed)
    assert len(train) + len(val) == len(images)
    names = {val.name(i) for i in range(len(val))}
    assert not names & {train.name(i) for i in range(len(train))}
    return {str(Path(name).relative_to(images.folder)) for name in names}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_every_class_of_two_or_more_is_on_both_sides(tmp_path: Path, share: float) -> None:
    counts = {"a": 1, "b": 2, "c": 3, "d": 10, "e": 101}
    train, val = split(photos(tmp_path, counts), share, 0)
    expected = [0, *(max(1, min(n - 1, int(np.floor(share * n + 0.5)))) for n in (2, 3, 10, 101))]
    assert np.bincount(val.targets, minlength=5).tolist() == expected
    assert (np.bincount(train.targets, minlength=5) + expected).tolist() == list(counts.values())


def test_the_same_names_make_the_same_parts_wherever_they_lie(tmp_path: Path) -> None:
    here = photos(tmp_path / "here", {"a": 20, "b": 20})
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert kept(here) == kept(FolderImages(tmp_path / "there", "RGB"))
    assert kept(here) != kept(here, seed=1)
    assert kept(here, seed=2**63 - 1)


def test_a_picture_more_moves_at_most_one_of_its_class(tmp_path: Path) -> None:
    before = kept(photos(tmp_path, {"a": 30, "b": 30}), 0.2)
    for count in range(31, 45):
        after = kept(photos(tmp_path, {"a": count, "b": 30}), 0.2)
        assert len(before - after) <= 1
        assert {name for name in before ^ after if name[0] == "b"} == set()
        before = after


def test_nothing_to_keep_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"val_split: every class of .* has a single image"):
        split(photos(tmp_path, {"a": 1, "b": 1}), 0.5, 0)
