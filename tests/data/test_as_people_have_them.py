"""Folders as people have them: levels, names, loose and foreign files; each advice is followed."""

import os
import re
import shlex
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from t2t_vit.data.datasets import open_images, open_training_images
from t2t_vit.data.decode import has_heif
from t2t_vit.data.folder import FolderImages
from t2t_vit.data.images import ImageSet
from t2t_vit.data.scan import class_name, folders_in, scan
from t2t_vit.errors import UserError


def put(folder: Path, *names: str, ending: str = ".png", each: int = 5) -> Path:
    """Images in `folder`/NAME for each of `names`, else in `folder` itself."""
    for place in [folder / name for name in names] or [folder]:
        place.mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.new("L", (4, 4), i).save(place / f"{i}{ending}", "PNG")
    return folder


def opened(root: Path, **options: object) -> tuple[ImageSet, ImageSet, list[str]]:
    told: list[str] = []
    chosen = {"val_split": 0.2, **options}
    return *open_training_images(dataset="ImageNet", data_url=str(root), note=told.append, **chosen), told  # type: ignore[arg-type]


def refused(root: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, **options)
    return str(caught.value)


def advised(sentence: str, key: str) -> str:
    """The value that a sentence advises for a key."""
    return shlex.split(sentence.partition(f"--{key} ")[2])[0].rstrip("),;")


def test_one_level_too_high(tmp_path: Path) -> None:
    put(tmp_path / "my wrap" / "pics", "a", "b")
    sentence = refused(tmp_path / "my wrap")
    assert "holds one folder of images, pics, and a, b lie in" in sentence
    assert opened(Path(advised(sentence, "data_url")))[0].classes == ("a", "b")


def test_several_levels_too_high_and_what_an_archive_leaves_beside(tmp_path: Path) -> None:
    put(tmp_path / "zip" / "x" / "y", "a", "b", "c")
    put(tmp_path / "zip" / "__MACOSX" / "x")
    sentence = refused(tmp_path / "zip")
    assert opened(Path(advised(sentence, "data_url")))[0].classes == ("a", "b", "c")


def test_one_level_too_high_within_a_split(tmp_path: Path) -> None:
    put(tmp_path / "train" / "pics", "a", "b")
    put(tmp_path / "val" / "pics", "a", "b")
    sentence = refused(tmp_path, val_split=0)
    train, val, _ = opened(tmp_path, val_split=0, train_dir=advised(sentence, "train_dir"), val_dir="val/pics")
    assert (train.classes, len(val)) == (("a", "b"), 10)


def test_data_sets_side_by_side_are_no_classes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        put(tmp_path / name / "train", "a", "b")
        put(tmp_path / name / "val", "a", "b")
    sentence = refused(tmp_path)
    assert "is itself a data set, with train, val in it" in sentence
    assert opened(Path(advised(sentence, "data_url")), val_split=0)[0].classes == ("a", "b")


def test_a_split_within_the_classes_is_the_wrong_way_round(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        put(tmp_path / name, "train", "val")
    sentence = refused(tmp_path)
    assert f"{tmp_path}/train/cat" in sentence
    assert opened(tmp_path, train_dir=advised(sentence, "train_dir"))[0].classes == ("cat", "dog")


def test_one_class_is_nothing_to_learn(tmp_path: Path) -> None:
    put(put(tmp_path / "loose", each=9), "sub", each=3)
    assert "holds one class, sub, and 9 images in no folder" in refused(tmp_path / "loose")
    put(tmp_path / "split" / "train", "a")
    put(tmp_path / "split" / "val", "a")
    assert "holds one class, a; training needs two or more" in refused(tmp_path / "split")


def test_one_level_too_low_names_the_folder_above(tmp_path: Path) -> None:
    put(tmp_path / "photos", "cat", "dog")
    sentence = refused(tmp_path / "photos" / "cat")
    assert "holds images but no class folders" in sentence
    assert opened(Path(advised(sentence, "data_url")))[0].classes == ("cat", "dog")


def test_nested_classes_are_read_and_said(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        put(tmp_path / name, "2023", "2024")
    train, val, told = opened(tmp_path)
    assert (train.classes, len(train), len(val)) == (("cat", "dog"), 16, 4)
    assert told[0].startswith("all images lie in folders within the 2 classes, such as cat/2023; if those are")


def test_what_is_left_out_is_counted_and_named_in_one_line(tmp_path: Path) -> None:
    put(put(tmp_path, each=2), "a", "b")
    for name in (".thumbnails", "__MACOSX", "$RECYCLE.BIN", "lost+found", "a/@eaDir", "b/@eaDir"):
        put(tmp_path / name)
    for name in ("a/Thumbs.db", "a/._0.png", "a/._1.png", "a/x.heic", "a/y.HEIC", "b/notes.txt", "b/README"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    train, val, told = opened(tmp_path)
    assert (train.classes, len(train) + len(val)) == (("a", "b"), 10 if not has_heif() else 12)
    lines = [line for line in told if line.startswith("ignored in")]
    assert len(lines) == 1
    expected = [
        f"ignored in {tmp_path}: 2 images beside the class folders (0.png, 1.png); ",
        "folders without images (labels); ",
        "@eaDir 2, ._* 2, $RECYCLE.BIN, ",
        "broken or circular links (gone)",
        "1 .txt, 1 without ending",
    ]
    expected += [] if has_heif() else ["2 .heic", "to read HEIC: pip install pillow-heif"]
    assert [text for text in expected if text not in lines[0]] == []


def test_runs_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, "a", "b")
    for file in ("runs/logs/t2t_vit_7/run.json", "out/t2t_vit_7/t2t_vit_7-1_10.ckpt", "s/x/events.out.tfevents.1.host"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("{}")
    put(tmp_path / "runs" / "logs" / "t2t_vit_7", each=1)  # a preview
    train, _, told = opened(tmp_path)
    assert train.classes == ("a", "b")
    assert f"ignored in {tmp_path}: files of runs (out, runs, s)" in told
    (tmp_path / "new" / "logs").mkdir(parents=True)  # of the run that begins
    own = [(tmp_path / "new" / name).resolve() for name in ("logs", "summary")]
    assert opened(tmp_path, own=own)[0].classes == ("a", "b")
    assert "the class folder" in refused(tmp_path)
    put(tmp_path / "out")  # images of its own: a class in which somebody keeps a checkpoint
    assert opened(tmp_path, own=own)[0].classes == ("a", "b", "out")


def test_a_class_of_images_that_are_not_read_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2t_vit.data.decode.has_heif", lambda: False)
    put(tmp_path, "a", "b")
    (tmp_path / "c").mkdir()
    for i in range(40):
        (tmp_path / "c" / f"{i}.HEIC").write_bytes(b"")
    sentence = refused(tmp_path)
    assert (
        "the class folder" in sentence and "but 40 .heic; install what reads HEIC (pip install pillow-heif)" in sentence
    )
    for path in (tmp_path / "c").iterdir():  # or convert them, as told
        path.unlink()
    put(tmp_path / "c")
    assert opened(tmp_path)[0].classes == ("a", "b", "c")


def test_a_folder_called_train_that_holds_folders_of_images_is_a_part(tmp_path: Path) -> None:
    put(tmp_path / "train", "a", "b")
    put(tmp_path, "other")
    assert opened(tmp_path)[0].classes == ("a", "b")


@pytest.mark.parametrize(
    "names", [("train", "bus", "car"), ("val", "valid", "bus"), ("train", "val", "valid"), ("train", "val")]
)
def test_classes_may_be_called_as_parts_are(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(tmp_path, *names)
    assert re.search(
        r"so (they are|it is a) class(es)? like the others: set val_split to 0.2", refused(tmp_path, val_split=0)
    )
    train, val, told = opened(tmp_path, val_split=0.2)
    assert train.classes == val.classes == tuple(sorted(names))
    assert any("like the others; in a split the images would lie in" in line for line in told)
    kept = open_images("val", dataset="ImageNet", data_url=str(tmp_path), val_split=0.2)
    assert [kept.name(i) for i in range(len(kept))] == [val.name(i) for i in range(len(val))]


def test_loose_test_images_beside_a_split_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path / "train", "a", "b")
    put(tmp_path / "test")
    assert "holds no validation folder" in refused(tmp_path, val_split=0)
    assert opened(tmp_path, val_split=0.2)[0].classes == ("a", "b")


def test_what_fits_both_readings_is_decided_by_train_dir(tmp_path: Path) -> None:
    put(put(tmp_path / "train"), "a", "b")
    put(tmp_path, "bus", "car")
    sentence = refused(tmp_path)
    assert "the training split" in sentence and "one class of several" in sentence
    assert opened(tmp_path, train_dir=advised(sentence, "train_dir"))[0].classes == ("a", "b")
    assert opened(tmp_path, train_dir=".")[0].classes == ("bus", "car", "train")


def test_an_empty_class_of_a_test_folder_is_one_that_it_lacks(tmp_path: Path) -> None:
    put(tmp_path / "train", "a", "b", "c")
    put(tmp_path / "val", "a", "c")
    (tmp_path / "val" / "b").mkdir()
    _, val, told = opened(tmp_path, val_split=0)
    assert (val.classes, set(val.targets.tolist())) == (("a", "b", "c"), {0, 2})
    assert any("missing: 'b'" in line for line in told)


def measured(root: Path, classes: tuple[str, ...], **options: object) -> tuple[ImageSet, list[str]]:
    told: list[str] = []
    images = open_images(
        "val",
        dataset="ImageNet",
        data_url=str(root),
        note=told.append,
        classes=classes,
        path="x.ckpt",
        **options,  # type: ignore[arg-type]
    )
    return images, told


def test_a_folder_without_parts_is_measured_whole(tmp_path: Path) -> None:
    put(tmp_path, "b", "d")
    images, told = measured(tmp_path, ("d", "c", "b"))
    assert images.targets.tolist() == [2] * 5 + [0] * 5
    assert told == [
        f"no validation folder in {tmp_path}: all of its images are used",
        "the validation images: 2 of the 3 classes of x.ckpt; missing: 'c'",
    ]


def test_one_class_can_be_measured_also_in_part(tmp_path: Path) -> None:
    put(tmp_path, "b", each=10)
    images, told = measured(tmp_path, ("a", "b"), val_split=0.2)
    assert images.targets.tolist() == [1, 1]
    assert told[-1] == "the validation images: 1 of the 2 classes of x.ckpt; missing: 'a'"


def test_one_level_too_high_in_an_evaluation(tmp_path: Path) -> None:
    put(tmp_path / "my wrap" / "pics", "a", "b")
    with pytest.raises(UserError, match=r"holds none of the classes, but .*pics does") as caught:
        measured(tmp_path / "my wrap", ("a", "b"))
    assert len(measured(Path(advised(str(caught.value), "data_url")), ("a", "b"))[0]) == 10
    put(tmp_path / "split" / "val" / "pics", "a", "b")
    with pytest.raises(UserError, match="holds none of the classes") as caught:
        measured(tmp_path / "split", ("a", "b"))
    assert len(measured(tmp_path / "split", ("a", "b"), val_dir=advised(str(caught.value), "val_dir"))[0]) == 10


NFC, NFD = (unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    put(tmp_path / "train", NFC, "Brot")
    put(tmp_path / "val", NFD, "Brot")
    train, val, _ = opened(tmp_path, val_split=0)
    assert train.classes == val.classes == ("Brot", NFC)
    assert val.targets.tolist() == [0] * 5 + [1] * 5
    assert val.read(5).size == (4, 4)  # of its own folder
    old = FolderImages(tmp_path / "train", "RGB")
    assert measured(tmp_path, (NFD, "Brot"))[0].targets.tolist() == [1] * 5 + [0] * 5  # an older checkpoint's
    assert old.classes == ("Brot", NFC)


def test_both_forms_in_one_folder_are_merged_and_said(tmp_path: Path) -> None:
    put(tmp_path, NFC, NFD, "Brot")
    train, val, told = opened(tmp_path)
    assert train.classes == ("Brot", NFC)
    assert len(train) + len(val) == 15
    assert any("holds 2 folders called Käse, in different forms of Unicode: they are one class" in t for t in told)


def test_names_that_differ_by_case_are_named(tmp_path: Path) -> None:
    put(tmp_path, "Cat", "cat", "dog")
    train, _, told = opened(tmp_path)
    assert train.classes == ("Cat", "cat", "dog")
    assert any(line.startswith("Cat and cat differ only in case and are 2 classes") for line in told)


def test_names_that_are_no_utf8_are_shown_by_escapes(tmp_path: Path) -> None:
    latin = os.fsdecode("café".encode("latin-1"))
    put(tmp_path, latin, "two\nlines", "b")
    train, _, told = opened(tmp_path)
    assert train.classes == ("b", "caf\\udce9", "two\\nlines")
    assert all(train.read(i).size == (4, 4) for i in range(len(train)))
    for text in (*told, *train.classes):
        text.encode()
    assert [class_name(name) for name in train.classes] == list(train.classes)
    assert class_name("日本 ok\t") == "日本 ok\\t"


def test_a_list_of_files_gives_the_same_images(tmp_path: Path) -> None:
    images = FolderImages(put(tmp_path, NFD, "b", each=3), "RGB")
    files = [images.relative(i) for i in range(len(images))][::-1]
    (tmp_path / "b" / "0.png").unlink()
    again = FolderImages.of_files(tmp_path, "RGB", images.classes, files)
    assert [again.relative(i) for i in range(6)] == files
    assert again.targets.tolist() == images.targets.tolist()[::-1]
    with pytest.raises(UserError, match="is not in any of the classes"):
        FolderImages.of_files(tmp_path, "RGB", ("b",), files)


def test_a_folder_that_cannot_be_scanned_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        scan(tmp_path / "nowhere")


def test_links_that_lead_back_bring_no_images_of_other_classes(tmp_path: Path) -> None:
    put(tmp_path / "photos", "a", "b", each=2)
    photos = tmp_path / "photos"
    for link, target in {
        "itself": "itself",
        "above": "..",
        "a/up": "..",
        "a/here": ".",
        "b/loop.png": "loop.png",
        "b/turn": "turn",
        "c": str(photos / "a"),  # elsewhere a link to a folder is as good as the folder
    }.items():
        (photos / link).symlink_to(target)
    found = scan(photos)
    assert found.by_class() == {
        "a": ["a/0.png", "a/1.png"],
        "b": ["b/0.png", "b/1.png", "b/loop.png"],  # an image that cannot be read
        "c": ["c/0.png", "c/1.png"],
    }
    assert sorted(found.links) == ["above", "itself"]
    assert folders_in(photos) == ["a", "above", "b", "c"]
    assert opened(tmp_path / "photos")[2][0].endswith("broken or circular links (above, itself)")


def test_folders_beside_a_split_are_named_as_left_out(tmp_path: Path) -> None:
    put(tmp_path / "Train", "a", "b")
    put(tmp_path / "test", "a", "b")
    put(tmp_path, "more")
    (tmp_path / "notes").mkdir()
    line = f"left out of {tmp_path}: more, test; used: Train (train_dir and val_dir choose)"
    assert line in opened(tmp_path)[2]
    put(tmp_path / "val", "a", "b")
    line = f"left out of {tmp_path}: more, test; used: Train and val (train_dir and val_dir choose)"
    assert line in opened(tmp_path, val_split=0)[2]
    put(tmp_path / "whole", "a", "b")
    assert not any("left out" in text for text in opened(tmp_path / "whole")[2])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("photo", r"does not exist; .* holds photos; give a folder of images, as FOLDER/CLASS"),
        ("photos.zip", "is an archive; unpack it, and give a folder of images"),
        ("photos/a/0.png", "is not a folder; give a folder of images"),
        ("https://example.org/photos.zip", "is an address; download it"),
    ],
)
def test_what_is_no_folder_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("photos"), "a", "b")
    Path("photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=f"^data_url {name} {what}"):
        opened(Path(name)) if "://" not in name else open_images("val", dataset="ImageNet", data_url=name)


def test_a_part_that_is_a_class_is_said_in_the_right_number(tmp_path: Path) -> None:
    put(tmp_path, "train", "bus")
    assert any("train in" in text and "holds images itself, so it is a class" in text for text in opened(tmp_path)[2])


def test_more_empty_classes_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a", "b")
    for name in ("c", "d", "e"):
        (tmp_path / name).mkdir()
    assert "c holds no images (nor do 2 more); add some" in refused(tmp_path)
    (tmp_path / "e").rmdir()
    assert "c holds no images (nor does 1 more); add some" in refused(tmp_path)


@pytest.mark.parametrize("name", ["a", "a/below"])
def test_a_folder_that_may_not_be_read_is_named_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / "images"
    put(root, "a", "b", "a/below")
    scandir = os.scandir

    def closed(place: object) -> object:
        if Path(str(place)) == root / name:
            raise PermissionError(13, "Permission denied")
        return scandir(place)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", closed)
        sentence = refused(root)
    assert sentence.startswith(f"{root / name} cannot be read (Permission denied); make it readable, or move")
    (root / name).rename(tmp_path / "moved out")
    put(root, "c")
    assert "b" in opened(root)[0].classes
