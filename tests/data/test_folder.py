import os
import pickle
import re
from pathlib import Path

import pytest
from PIL import Image

from t2t_vit.data.datasets import open_images, open_training_images
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.images import check_class_count, check_same_classes
from t2t_vit.errors import UserError


def put(path: Path, colour: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(path, "PNG")
    return path


def tree(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 2) -> Path:
    for split in ("train", "val"):
        for k, name in enumerate(classes):
            for i in range(each):
                put(root / split / name / f"{i}.png", 100 * k + i)
    return root


def folder(root: Path, split: str = "train", **options: object) -> object:
    return open_images(split, dataset="ImageNet", data_url=str(root), **options)


def test_folder_classes_sorted_nested_any_case_links_hidden_and_foreign_files(tmp_path: Path) -> None:
    train = tmp_path / "train"
    put(train / "b" / "one.JPEG", 1)
    put(train / "b" / "deep" / "er" / "two.Png", 2)
    put(train / "a" / "three.png", 3)
    put(train / "Z" / "four.png", 4)
    put(train / "a" / ".hidden.png")
    put(train / "a" / ".checkpoints" / "five.png")
    put(train / ".git" / "six.png")
    (train / "a" / "notes.txt").write_text("no image")
    (train / "notes.txt").write_text("no image")
    put(tmp_path / "elsewhere" / "seven.png", 7)
    (train / "a" / "linked.png").symlink_to(tmp_path / "elsewhere" / "seven.png")
    (train / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (train / "a" / "circle").symlink_to(train / "a")
    images = folder(tmp_path)
    assert images.classes == ("Z", "a", "b")
    names = [os.path.relpath(images.name(i), train) for i in range(len(images))]
    assert names == [
        "Z/four.png",
        "a/linked.png",
        "a/linked/seven.png",
        "a/three.png",
        "b/deep/er/two.Png",
        "b/one.JPEG",
    ]
    assert images.targets.tolist() == [0, 1, 1, 1, 2, 2]
    assert images.read(1).getpixel((0, 0)) == (7, 7, 7)
    copy = pickle.loads(pickle.dumps(images))
    assert [copy.name(i) for i in range(6)] == [images.name(i) for i in range(6)]


def test_folder_reads_in_the_wanted_channels_and_reports_broken_files(tmp_path: Path) -> None:
    tree(tmp_path)
    for in_chans, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        assert folder(tmp_path, in_chans=in_chans).read(0).mode == mode
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(DecodeError, match="empty"):
        folder(tmp_path).read(0)


def wrong(expected: str) -> object:
    return pytest.raises(UserError, match=expected)


def test_folder_mistakes_each_have_a_sentence(tmp_path: Path) -> None:
    with wrong("needs data_url"):
        open_images("train", dataset="ImageNet")
    with wrong("not a folder"):
        folder(tmp_path / "nowhere")
    tree(tmp_path / "a")
    with wrong(re.escape("validation does not exist") + ".*holds train, val"):  # a name that was given is meant
        folder(tmp_path / "a", "val", val_dir="validation")
    (tmp_path / "b" / "train").mkdir(parents=True)
    with wrong("no class folders"):
        folder(tmp_path / "b")
    put(tmp_path / "b" / "train" / "x.png")
    with wrong("images but no class folders"):
        folder(tmp_path / "b")
    (tmp_path / "a" / "train" / "ant").mkdir()
    with wrong("ant holds no images"):
        folder(tmp_path / "a")
    (tmp_path / "c" / "train" / "ant").mkdir(parents=True)
    (tmp_path / "c" / "train" / "ant" / "readme.md").write_text("")
    with wrong("no images in them"):
        folder(tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train").write_text("a file")
    with wrong("cannot be read as a folder"):
        folder(tmp_path / "d")
    with wrong("choose from ImageNet"):
        open_images("train", dataset="MNIST")
    with wrong("in_chans is 2"):
        folder(tmp_path / "a", in_chans=2)


def test_class_lists_are_compared(tmp_path: Path) -> None:
    tree(tmp_path)
    train, val = open_training_images(dataset="ImageNet", data_url=str(tmp_path), train_num_samples=2)
    assert (len(train), len(val)) == (2, 4)
    put(tmp_path / "val" / "emu" / "0.png")
    with wrong("val differ from those of .*train: it has 'emu' besides"):
        open_training_images(dataset="ImageNet", data_url=str(tmp_path))
    put(tmp_path / "train" / "fox" / "0.png")
    with wrong("lacks 'fox' and has 'emu' besides"):
        open_training_images(dataset="ImageNet", data_url=str(tmp_path))
    with wrong("another order"):
        check_same_classes(("b", "a"), ("a", "b"), "this", "that")
    check_class_count(train, 0, "here")
    check_class_count(train, 2, "here")
    with wrong("here has 2 classes but num_classes is 5; set num_classes to 2, or to 0"):
        check_class_count(train, 5, "here")
