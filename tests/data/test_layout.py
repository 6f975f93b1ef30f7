"""Folders as users have them, and what is said of them."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from t2t_vit.data.datasets import open_images, open_training_images
from t2t_vit.data.folder import Tree
from t2t_vit.errors import UserError


def fill(folder: Path, classes: str = "ab", each: int = 10) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / name / f"{i}.png")
    return folder


def both(root: Path, **options: object) -> tuple[list[str], list[str], list[str]]:
    told: list[str] = []
    train, val = open_training_images(dataset="ImageNet", data_url=str(root), note=told.append, **options)
    return *([images.name(i) for i in range(len(images))] for images in (train, val)), told


@pytest.mark.parametrize("name", ["val", "valid", "validation", "validation_preprocess", "Val"])
def test_the_usual_names_are_found(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / name, each=2)
    train, val, told = both(tmp_path, val_split=0.1)
    assert (len(train), len(val)) == (20, 4)
    assert str(tmp_path / name / "a" / "0.png") in val
    assert told == [f"validation images are those of {tmp_path / name}: val_split 0.1 is not needed"]
    assert both(tmp_path)[2] == [f"validation images are those of {tmp_path / name}"]


def test_a_share_of_the_training_images_where_there_is_no_other_folder(tmp_path: Path) -> None:
    fill(tmp_path / "Training")
    fill(tmp_path / "test")  # taken only when it is named: checkpoints are chosen by what is taken
    train, val, told = both(tmp_path, val_split=0.2)
    assert (len(train), len(val)) == (16, 4)
    assert not set(train) & set(val)
    assert all("Training" in name for name in train + val)
    assert told == [
        f"left out of {tmp_path}: test; used: Training (train_dir and val_dir choose)",
        f"no validation folder in {tmp_path}: 0.2 of each class of {tmp_path / 'Training'} is kept for validation, "
        "4 of 20 images, chosen by their names and split_seed 0",
    ]
    assert len(both(tmp_path, val_dir="test")[1]) == 20


def test_the_folder_itself_where_its_folders_are_the_classes(tmp_path: Path) -> None:
    train, val, _ = both(fill(tmp_path / "photos"), val_split=0.1)
    assert (len(train), len(val)) == (18, 2)


def test_evaluation_has_the_very_images_that_training_kept(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", "abc", 7)
    for seed in (0, 1):
        kept = both(root, val_split=0.3, split_seed=seed)[1]
        images = open_images("val", dataset="ImageNet", data_url=str(root), val_split=0.3, split_seed=seed)
        assert [images.name(i) for i in range(len(images))] == kept
    assert both(root, val_split=0.3)[1] != kept  # of split_seed 1
    assert both(root, val_split=0.3, seed=5) == both(root, val_split=0.3)


def test_the_training_part_alone_is_what_the_validation_part_leaves(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", "abc", 7)
    train, val, _ = both(root, val_split=0.3, split_seed=2)
    for part, expected in (("train", train), ("val", val)):
        images = open_images(part, dataset="ImageNet", data_url=str(root), val_split=0.3, split_seed=2)  # type: ignore[arg-type]
        assert [images.name(i) for i in range(len(images))] == expected


def test_of_several_usual_names_the_first_is_meant(tmp_path: Path) -> None:
    for name in ("training", "Train", "validation", "valid", "VAL", "validation_preprocess"):
        fill(tmp_path / name, each=2)
    tree = Tree(tmp_path)
    assert (tree.train().name, tree.val()) == ("Train", tmp_path / "validation_preprocess")
    for name in ("VAL", "valid", "validation"):
        shutil.rmtree(tree.val() or tmp_path / "none")
        assert tree.val() == tmp_path / name


def test_a_folder_that_is_named_is_meant(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    with pytest.raises(UserError, match="held_out does not exist"):
        both(tmp_path, val_dir="held_out")
    assert len(both(tmp_path, val_dir="held_out", val_split=0.1)[1]) == 2
    with pytest.raises(UserError, match="learn does not exist"):
        both(tmp_path, train_dir="learn")


def test_what_is_missing_is_said_with_a_way_out(tmp_path: Path) -> None:
    flat = fill(tmp_path / "flat")
    with pytest.raises(UserError, match=r"no validation folder \(.*\) but a, b; .*val_split 0.2"):
        both(flat)
    with pytest.raises(UserError, match=r"holds no folder train but a, b; .*set val_split to 0.2"):
        Tree(flat, val_dir="nowhere").train()
    fill(tmp_path / "odd" / "learn")
    fill(tmp_path / "odd" / "test")
    with pytest.raises(UserError, match="holds test but no folder train; give the training folder with train_dir"):
        both(tmp_path / "odd", val_split=0.1)
