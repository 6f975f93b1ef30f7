import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from t2t_vit.data.datasets import open_images, open_training_images
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.images import by_name, check_class_count
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
    with wrong("nowhere does not exist.*give a folder of images"):
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
        open_training_images(dataset="ImageNet", data_url=str(tmp_path / "a"))
    (tmp_path / "c" / "train" / "ant").mkdir(parents=True)
    (tmp_path / "c" / "train" / "ant" / "readme.md").write_text("")
    with wrong("class folders without images"):
        folder(tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train").write_text("a file")
    with wrong("cannot be read as a folder"):
        folder(tmp_path / "d")
    with wrong("choose from ImageNet"):
        open_images("train", dataset="MNIST")
    with wrong("in_chans is 2"):
        folder(tmp_path / "a", in_chans=2)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    tree(tmp_path, ("ant", "cat", "dog"))
    train, val = open_training_images(dataset="ImageNet", data_url=str(tmp_path), train_num_samples=3)
    assert (len(train), len(val)) == (3, 6)
    check_class_count(train, 0, "here")
    check_class_count(train, 3, "here")
    with wrong("here has 3 classes but num_classes is 5; set num_classes to 3, or to 0"):
        check_class_count(train, 5, "here")
    told: list[str] = []
    turned = by_name(val, ("dog", "emu", "cat", "ant"), "this", "that", told.append)
    assert turned.classes == ("dog", "emu", "cat", "ant")
    assert turned.targets.tolist() == [3, 3, 2, 2, 0, 0]
    assert [turned.name(i) for i in range(6)] == [val.name(i) for i in range(6)]
    assert told == ["this: 3 of the 4 classes of that; missing: 'emu'"]
    assert by_name(val, ("ant", "cat", "dog"), "this", "that", told.append) is val


def test_validation_images_take_the_numbers_of_the_training_classes(tmp_path: Path) -> None:
    tree(tmp_path, ("ant", "cat", "dog"))
    shutil.rmtree(tmp_path / "val" / "cat")
    told: list[str] = []
    train, val = open_training_images(dataset="ImageNet", data_url=str(tmp_path), note=told.append)
    assert val.classes == train.classes == ("ant", "cat", "dog")
    assert val.targets.tolist() == [0, 0, 2, 2]
    assert f"{tmp_path / 'val'}: 2 of the 3 classes of {tmp_path / 'train'}; missing: 'cat'" in told
    put(tmp_path / "val" / "emu" / "0.png")
    with wrong("val differ from those of .*train: it lacks 'cat' and has 'emu' besides; move that folder elsewhere"):
        open_training_images(dataset="ImageNet", data_url=str(tmp_path))
    (tmp_path / "val" / "emu").rename(tmp_path / "val" / "Cat")
    with wrong("has 'Cat' besides; names must be equal letter by letter, so rename 'Cat' to 'cat'"):
        open_training_images(dataset="ImageNet", data_url=str(tmp_path))
    (tmp_path / "val" / "Cat").rename(tmp_path / "val" / "cat")  # as told
    assert len(open_training_images(dataset="ImageNet", data_url=str(tmp_path))[1]) == 5
