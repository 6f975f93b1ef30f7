"""Folders within folders: as deep as a path may be long, through links and junctions, never in a circle."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from t2t_vit.data.folder import Tree
from t2t_vit.data.scan import scan
from t2t_vit.data.walk import identity_of
from t2t_vit.errors import UserError
from t2t_vit.inference.sources import find_images


@contextmanager
def deep(top: Path, levels: int, name: str) -> Iterator[None]:
    """An image so many folders below `top`; making and removing them takes no path of that length."""
    here = Path.cwd()
    top.mkdir(parents=True)
    os.chdir(top)
    for _ in range(levels):
        Path(name).mkdir()
        os.chdir(name)
    Path("x.png").touch()
    try:
        yield
    finally:
        Path("x.png").unlink()
        for _ in range(levels):  # shutil.rmtree, which clears up after the tests, would not manage
            os.chdir("..")
            Path(name).rmdir()
        os.chdir(here)


def test_an_image_is_found_however_deep_it_lies(tmp_path: Path) -> None:
    with deep(tmp_path / "photos" / "cat", 500, "d"):
        below = f"{'d/' * 500}x.png"
        assert scan(tmp_path / "photos").images == {"cat": [below]}
        (item,) = find_images([str(tmp_path)], recursive=True)
        assert item.path == f"{tmp_path}/photos/cat/{below}"


def test_where_no_path_reaches_is_one_sentence(tmp_path: Path) -> None:
    said = r"photos/cat/nnn.*\.\.\. cannot be read \(File name too long\); "
    with deep(tmp_path / "photos" / "cat", 20, "n" * 250):
        with pytest.raises(UserError, match=said) as caught:
            scan(tmp_path / "photos")
        assert len(str(caught.value)) < 700
        (item,) = find_images([str(tmp_path / "photos")], recursive=True)
        assert item.reason == "the folder cannot be read (File name too long)"


class Junctions:
    """Folders of Windows that lead to others: `is_symlink` says nothing of them."""

    def __init__(self, folder: str | Path) -> None:
        with SCANDIR(folder) as entries:
            self.entries = [
                SimpleNamespace(name=entry.name, path=entry.path, is_dir=entry.is_dir, is_symlink=lambda: False)
                for entry in entries
            ]

    def __enter__(self) -> list[SimpleNamespace]:
        return self.entries

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return iter(self.entries)


SCANDIR = os.scandir


def test_a_junction_that_leads_back_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    for name in ("a/0.png", "b/1.png", "b/deep/2.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    for link, target in {"above": "..", "a/up": "..", "b/deep/here": ".", "c": "b", "gone": "nowhere"}.items():
        (photos / link).symlink_to(target)
    monkeypatch.setattr(os, "scandir", Junctions)
    found = scan(photos)
    assert found.by_class() == {
        "a": ["a/0.png"],
        "b": ["b/1.png", "b/deep/2.png"],
        "c": ["c/1.png", "c/deep/2.png"],
    }
    assert sorted(found.links) == ["above", "gone"]
    images = [item.path for item in find_images([str(photos)], recursive=True)]
    assert sorted(os.path.relpath(path, photos) for path in images) == [
        "a/0.png", "b/1.png", "b/deep/2.png", "c/1.png", "c/deep/2.png"
    ]  # fmt: skip


def test_a_disk_without_numbers_goes_by_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    assert identity_of(tmp_path / "a") == identity_of(tmp_path / "b") != identity_of(tmp_path)
    monkeypatch.setattr(os, "stat", lambda _: SimpleNamespace(st_dev=1, st_ino=0))
    assert identity_of(tmp_path / "a") == identity_of(tmp_path / "b") != identity_of(tmp_path)


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Classes a and b, where the folder b does not answer any more."""
    photos = tmp_path / "photos"
    for name in ("a/0.png", "a/deep/1.png", "b/2.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    stat = os.stat

    def failing(path: Any, *words: Any, **options: Any) -> os.stat_result:
        if str(path) == str(photos / "b"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return stat(path, *words, **options)

    monkeypatch.setattr(os, "stat", failing)
    return photos


def test_a_class_that_cannot_be_reached_is_not_left_out_in_silence(lost: Path) -> None:
    with pytest.raises(UserError, match=r"photos/b cannot be read \(Stale file handle\); make it readable"):
        scan(lost)
    with pytest.raises(UserError, match=r"photos/b cannot be read \(Stale file handle\)"):
        Tree(lost, train_dir="a").beside(None)


def test_a_link_of_which_nobody_can_tell_is_named(tmp_path: Path) -> None:
    """It may lead to a folder of images; one that leads nowhere is only counted."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").touch()
    # The system's own answer for such a name, as root is refused nothing.
    (tmp_path / "a/disk").symlink_to("x" * 300)
    (tmp_path / "a/gone").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"a/disk cannot be read \(File name too long\)"):
        scan(tmp_path)
    (tmp_path / "a/disk").rename(tmp_path / "disk")
    with pytest.raises(UserError, match=r"disk cannot be read \(File name too long\)"):
        scan(tmp_path)
    items = {item.path: item.reason for item in find_images([str(tmp_path)], recursive=True)}
    assert items == {
        str(tmp_path / "a/0.png"): "",
        str(tmp_path / "disk"): "the folder cannot be read (File name too long)",
    }
