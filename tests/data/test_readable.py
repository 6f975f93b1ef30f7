"""What is known of the images of a data set before the first step."""

import os
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from PIL import Image

from t2t_vit.data.decode import DecodeError
from t2t_vit.data.folder import Files, FolderImages, reduced, split
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import Subset
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.readable import (
    Look,
    decode_some,
    digest,
    fingerprint,
    in_threads,
    read_headers,
    read_list,
    read_sizes,
    remember,
    remembered,
    write_list,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a/0.png ... a/9.png of different sizes; 3 is no image, 5 is cut short, 7 leads nowhere."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (10 + i, 20 + i, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "a" / f"{i}.png")
    (tmp_path / "data" / "a" / "3.png").write_bytes(b"no image")
    cut = tmp_path / "data" / "a" / "5.png"
    cut.write_bytes(cut.read_bytes()[:300])
    (tmp_path / "data" / "a" / "7.png").unlink()
    (tmp_path / "data" / "a" / "7.png").symlink_to("gone.png")
    return tmp_path / "data"


@pytest.mark.parametrize("threads", [1, 3])
def test_headers_then_whole_images(folder: Path, threads: int) -> None:
    images = FolderImages(folder, "RGB")
    files = Files(images, np.arange(10))
    look = Look.at_none(10)
    read_headers(files, look, range(10), threads)
    assert set(look.reasons) == {3, 7}
    assert "No such file" in look.reasons[7]
    assert look.sizes.tolist() == [[0, 0] if i in (3, 7) else [20 + i, 10 + i] for i in range(10)]
    decode_some(images.read, look, range(10), threads, monotonic() + 1000)
    assert set(look.reasons) == {3, 5, 7}
    assert look.reasons[5] == "the file is truncated"
    assert look.decoded.tolist() == [i not in (3, 7) for i in range(10)]
    assert np.flatnonzero(look.bad()).tolist() == [3, 5, 7]


def test_nothing_is_decoded_when_the_time_is_over(folder: Path) -> None:
    look = Look.at_none(10)
    decode_some(FolderImages(folder, "RGB").read, look, range(10), 2, monotonic())
    assert not look.decoded.any()


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_do_everything_once_and_pass_errors_on(threads: int) -> None:
    done: list[int] = []
    in_threads(done.append, range(1000), threads)
    assert sorted(done) == list(range(1000))

    def fails(number: int) -> None:
        if number == 50:
            raise ZeroDivisionError
        done.append(number)

    with pytest.raises(ZeroDivisionError):
        in_threads(fails, range(100_000_000), threads)


def reading(side: int = 224, min_crop: float = 0.08, crop_pct: float = 0.9) -> tuple[TrainTransform, Preprocessing]:
    return TrainTransform((side, side), min_crop=min_crop), Preprocessing((side, side), crop_pct)


def test_what_was_found_is_remembered_until_a_file_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path / "cache"))
    files = Files(FolderImages(folder, "RGB"), np.arange(10))
    look = Look.at_none(10)
    read_headers(files, look, range(10), 1)
    key = fingerprint(files, "RGB", *reading())
    assert remembered(key, 10) is None
    remember(key, look)
    same = Files(FolderImages(folder, "RGB"), np.arange(10))
    again = remembered(fingerprint(same, "RGB", *reading()), 10)
    assert again is not None
    assert again.sizes.tolist() == look.sizes.tolist()
    assert (again.reasons, again.decoded.tolist()) == (look.reasons, look.decoded.tolist())
    assert remembered(key, 9) is None
    assert fingerprint(files, "L", *reading()) != key
    others = [reading(1024), reading(min_crop=0.5), reading(crop_pct=1.0)]
    assert len({key, *(fingerprint(files, "RGB", *other) for other in others)}) == 4
    os.utime(folder / "a" / "0.png", ns=(1, 1))
    assert fingerprint(files, "RGB", *reading()) != key
    place = next((tmp_path / "cache").rglob("*.npz"))
    place.write_bytes(place.read_bytes()[:100])
    assert remembered(key, 10) is None


def test_a_cache_that_cannot_be_written_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path / "file" / "below"))
    remember("key", Look.at_none(3))
    assert remembered("key", 3) is None


def test_lists_hold_any_name(tmp_path: Path) -> None:
    names = [b"a/plain.png", b"caf\xe9/1.png", "Käse/2.png".encode(), b"a/back\\slash\\n.png", b"a/new\nline\r.png"]
    names.append(b"x/\\x41.png")
    for name in names:
        path = tmp_path / "data" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(path)
    images = FolderImages(tmp_path / "data", "L")
    files = Files(images, np.arange(len(images)))
    write_list(tmp_path / "list.txt", files)
    assert read_list(tmp_path / "list.txt") == [images.relative(i) for i in range(6)]
    assert sorted(read_list(tmp_path / "list.txt") or []) == sorted(names)
    assert len((tmp_path / "list.txt").read_text(encoding="utf-8").splitlines()) == 6
    assert read_list(tmp_path / "other.txt") is None
    assert digest(names) != digest(names[::-1]) != digest([b"".join(names)])


def test_files_of_a_part_are_its_own(folder: Path) -> None:
    images = FolderImages(folder, "RGB")
    train, val = split(images, 0.3, 0)
    for part in (train, val, Subset(train, np.array([2, 0]))):
        files = Files.of(part)
        assert files is not None
        assert [str(files.path(i)) for i in range(len(files))] == [part.name(i) for i in range(len(part))]


def test_large_images_are_read_as_small_as_the_crop_can_use(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    gradient = np.linspace(0, 255, 640 * 480).reshape(480, 640).astype(np.uint8)
    for name, mode in (("0.jpg", "RGB"), ("1.png", "RGB"), ("2.png", "P"), ("3.png", "LA"), ("4.jpg", "L")):
        Image.fromarray(gradient).convert(mode).save(tmp_path / "a" / name, quality=95)
    images = FolderImages(tmp_path, "RGB")
    for factor in (1, 2, 4, 8, 16):
        smaller = reduced(images, lambda _, factor=factor: factor)  # type: ignore[misc]
        sizes = read_sizes(images, lambda _, factor=factor: factor)  # type: ignore[misc]
        for i in range(len(images)):
            whole, small = images.read(i), smaller.read(i)
            assert small.mode == "RGB"
            assert small.size == tuple(sizes[i])
            means = np.asarray(whole.resize(small.size, Image.Resampling.BOX)).astype(float)
            assert np.abs(np.asarray(small).astype(float) - means).max() <= 6
    with pytest.raises(DecodeError):
        FolderImages.of_files(tmp_path, "RGB", ["a"], [b"a/9.png"]).read(0)
