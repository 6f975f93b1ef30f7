"""What the user points at -> image files."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from t2t_vit.errors import UserError
from t2t_vit.inference.item import Item
from t2t_vit.inference.sources import find_images, listed_images


def paths(*words: str, recursive: bool = False) -> list[str]:
    return [item.path for item in find_images(words, recursive=recursive)]


def folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_gives_its_images_sorted_in_any_case(tmp_path: Path) -> None:
    folder(tmp_path, "b.JPEG", "a.png", "C.jpg", "notes.txt", ".hidden.png", "d.webp", "e", "sub.png/inner.png")
    assert [os.path.relpath(path, tmp_path) for path in paths(str(tmp_path))] == ["C.jpg", "a.png", "b.JPEG", "d.webp"]


def test_paths_stand_as_the_user_gave_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path, "x.png"))
    (tmp_path / "link").symlink_to(tmp_path)
    around = f"link/../{tmp_path.name}//"
    assert paths(".") == ["./x.png"]
    assert paths("./") == ["./x.png"]
    assert paths(around) == [f"{around}x.png"]
    assert paths("x.png") == ["x.png"]
    assert paths(f"{tmp_path}/", "x.png") == [f"{tmp_path}/x.png", "x.png"]


def test_a_single_file_may_have_any_ending(tmp_path: Path) -> None:
    folder(tmp_path, "picture")
    assert paths(f"{tmp_path}/picture") == [f"{tmp_path}/picture"]


def test_links_that_lead_nowhere_are_listed_so_that_they_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    assert paths(str(tmp_path)) == [f"{tmp_path}/gone.png", f"{tmp_path}/self.png"]


def test_recursive_is_sorted_as_whole_paths_are(tmp_path: Path) -> None:
    names = ["a.png", "a/b.png", "a-b.png", "a/c/d.png", "a/c.png", "z.png", "B/x.jpg", "é/x.png", ".git/x.png"]
    folder(tmp_path, *names, "a/notes.txt", "empty/notes.txt")
    found = [os.path.relpath(path, tmp_path) for path in paths(str(tmp_path), recursive=True)]
    assert found == sorted(names[:-1])


def test_recursive_follows_links_but_never_in_a_circle(tmp_path: Path) -> None:
    folder(tmp_path, "top/a/x.png", "elsewhere/y.png")
    (tmp_path / "top/a/round").symlink_to(tmp_path / "top")
    (tmp_path / "top/b").symlink_to(tmp_path / "top/a")
    (tmp_path / "top/c").symlink_to(tmp_path / "elsewhere")
    found = [os.path.relpath(path, tmp_path) for path in paths(str(tmp_path / "top"), recursive=True)]
    assert found == ["top/a/x.png", "top/b/x.png", "top/c/y.png"]


def test_a_folder_that_cannot_be_read_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, "a/x.png", "b/x.png")
    scandir = os.scandir

    def denied(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    bad, good = find_images([str(tmp_path)], recursive=True)
    assert bad == Item(f"{tmp_path}/a", reason="the folder cannot be read (Permission denied)")
    assert good.path == f"{tmp_path}/b/x.png"


def told(words: Sequence[str], **asked: bool) -> str:
    with pytest.raises(UserError) as error:
        next(find_images(words, **asked))
    return str(error.value)


def test_nothing_to_predict_is_told_in_one_sentence(tmp_path: Path) -> None:
    folder(tmp_path, "words/a.txt", "nested/class/a.txt", "no.zip")
    (tmp_path / "empty").mkdir()
    for data, expected in [
        (str(tmp_path / "absent"), "no such file or folder"),
        ("", "no such file or folder"),
        ("x" * 300, "no such file or folder"),
        ("a\0b", "no such file or folder"),
        (str(tmp_path / "empty"), "the folder is empty"),
        (str(tmp_path / "words"), "no file in it"),
        (str(tmp_path / "nested"), "subfolders are not searched, so give one of them, or add --recursive"),
        (str(tmp_path / "no.zip"), "the rest of the archive cannot be read"),
    ]:
        assert told([data]).startswith(f"DATA '{data}': ")
        assert expected in told([data])
    assert "no file in the folder or its subfolders" in told([str(tmp_path / "nested")], recursive=True)
    assert "absent" in told([str(tmp_path / "words"), str(tmp_path / "absent")])


def test_one_of_several_words_without_images_stops_nothing(tmp_path: Path) -> None:
    folder(tmp_path, "empty/a.txt", "x.png")
    bad, good = find_images([str(tmp_path / "empty"), str(tmp_path / "x.png")])
    assert "no file in it" in bad.reason and good.path == str(tmp_path / "x.png")


@pytest.mark.parametrize("null", [False, True])
def test_a_list_is_answered_line_by_line(tmp_path: Path, null: bool) -> None:
    names = ["b.png", os.fsdecode(b"\xff \xe9.png"), "a.png", "b.png"] + (["new\nline\r.png"] if null else [])
    end = b"\0" if null else b"\r\n"
    content = end.join(os.fsencode(name) for name in names)
    for written in (content, content + end, b"\xef\xbb\xbf" + end + content + end + end):
        (tmp_path / "l").write_bytes(written)
        assert [item.path for item in listed_images(str(tmp_path / "l"), null=null)] == names


def test_a_list_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    names = [f"folder/{number:05d}.png" for number in range(20_000)]
    (tmp_path / "l").write_text("\n".join(names))
    assert [item.path for item in listed_images(str(tmp_path / "l"))] == names


def test_what_is_no_list(tmp_path: Path) -> None:
    for content, expected in [
        (b"", "contains no image paths"),
        (b"\n\n", "contains no image paths"),
        (b"a\0b", "add --null"),
        (b"x" * 2**21, "more than 1,048,576 bytes"),
    ]:
        (tmp_path / "l").write_bytes(content)
        with pytest.raises(UserError, match=expected):
            list(listed_images(str(tmp_path / "l")))
    for name in ("gone", "."):
        with pytest.raises(UserError, match="cannot be read"):
            listed_images(str(tmp_path / name))
