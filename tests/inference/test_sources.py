"""What the user points at -> image files."""

import os
from pathlib import Path

import pytest

from t2t_vit.errors import UserError
from t2t_vit.inference.sources import find_images


def folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_gives_its_images_sorted_in_any_case(tmp_path: Path) -> None:
    folder(tmp_path, "b.JPEG", "a.png", "C.jpg", "notes.txt", ".hidden.png", "d.webp", "e")
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png" / "inner.png").touch()
    found = find_images(str(tmp_path))
    assert [os.path.relpath(path, tmp_path) for path in found] == ["C.jpg", "a.png", "b.JPEG", "d.webp"]


def test_paths_stand_as_the_user_gave_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path, "x.png"))
    (tmp_path / "link").symlink_to(tmp_path)
    around = f"link/../{tmp_path.name}//"
    assert find_images(".") == ["./x.png"]
    assert find_images("./") == ["./x.png"]
    assert find_images(around) == [f"{around}x.png"]
    assert find_images("x.png") == ["x.png"]
    assert find_images(f"{tmp_path}/") == [f"{tmp_path}/x.png"]


def test_a_single_file_may_have_any_ending(tmp_path: Path) -> None:
    folder(tmp_path, "picture")
    assert find_images(f"{tmp_path}/picture") == [f"{tmp_path}/picture"]


def test_a_dangling_link_is_listed_so_that_it_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert find_images(str(tmp_path)) == [f"{tmp_path}/gone.png"]


def test_nothing_to_predict_is_told_in_one_sentence(tmp_path: Path) -> None:
    empty, words, nested = tmp_path / "empty", tmp_path / "words", tmp_path / "nested"
    empty.mkdir()
    words.mkdir()
    (words / "a.txt").touch()
    (nested / "class").mkdir(parents=True)
    for data, expected in [
        (str(tmp_path / "absent"), "no such file or folder"),
        ("", "no such file or folder"),
        ("x" * 300, "cannot be read"),
        (str(empty), "the folder is empty"),
        (str(words), "no file in it"),
        (str(nested), "subfolders are not searched"),
    ]:
        with pytest.raises(UserError, match=expected) as error:
            find_images(data)
        assert str(error.value).startswith(f"DATA '{data}': ")
