"""Images that stay in memory: the same pixels, decoded once, whoever reads them, and never more than was allowed."""

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.batch_transform import BatchTransform, RandomErasing
from t2t_vit.data.cache import ByteStore, KeptImages, keep_decoded
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.folder import FolderImages
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.loader import EvalLoader, TrainLoader
from t2t_vit.data.memory import MemoryFile, SharedArray
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.readable import read_sizes

LARGE = 2**30
NOTES: list[str] = []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six pictures of different sizes and kinds; b/5.jpg is broken."""
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number // 2}.{('jpg', 'png')[number % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + number, 30 - number, 3 + (number % 3 == 0)), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    broken = tmp_path / "train/b/5.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    return tmp_path / "train"


class Counting(FolderImages):
    """Remembers which images were decoded here."""

    def __init__(self, folder: Path, mode: str = "RGB") -> None:
        super().__init__(folder, mode)  # type: ignore[arg-type]
        self.decoded: list[int] = []

    def read(self, index: int) -> Image.Image:
        self.decoded.append(index)
        return super().read(index)


def sizes_of(images: FolderImages) -> NDArray[np.int64]:
    return read_sizes(images, lambda _: 1)


def keep(images: FolderImages, budget: int = LARGE, mode: str = "RGB") -> tuple[KeptImages, int]:
    notes: list[str] = []
    kept, left = keep_decoded(images, mode, budget, sizes_of(images), what="images", note=notes.append)  # type: ignore[arg-type]
    assert len(notes) == 1
    assert isinstance(kept, KeptImages), notes
    return kept, left


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_kept_images_are_the_decoded_ones_to_the_pixel(folder: Path, mode: str) -> None:
    plain, counting = FolderImages(folder, mode), Counting(folder, mode)  # type: ignore[arg-type]
    kept, left = keep(counting, mode=mode)
    good = [index for index in range(12) if plain.name(index)[-7:] != "b/5.jpg"]
    for _ in range(3):
        for index in good:
            assert kept.read(index).mode == mode
            assert kept.read(index).size == plain.read(index).size
            assert kept.read(index).tobytes() == plain.read(index).tobytes()
    assert sorted(counting.decoded) == good  # each once
    assert 0 < LARGE - left < 12 * 31 * 30 * 4
    assert (kept.classes, len(kept), kept.name(3)) == (plain.classes, 12, plain.name(3))


def test_a_broken_image_stays_broken_and_says_why(folder: Path) -> None:
    kept, _ = keep(FolderImages(folder, "RGB"))
    for _ in range(2):
        with pytest.raises(DecodeError, match="truncated"):
            kept.read(11)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_evaluation_are_bit_identical(folder: Path, workers: int) -> None:
    plain = FolderImages(folder, "RGB")
    kept, _ = keep(plain)
    for epoch in range(3):
        for (a, b), (c, d) in zip(batches(plain, epoch, 0), batches(kept, epoch, workers), strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)
    whole = plain.targets[:10]
    good_plain, good_kept = first_ten(plain), first_ten(kept)
    for (a, _), (c, d) in zip(good_plain, good_kept, strict=True):
        assert torch.equal(a, c)
        assert d.tolist() == whole.tolist()


def batches(images: FolderImages | KeptImages, epoch: int, workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batch = BatchTransform(Preprocessing((16, 16)), 2, RandomErasing(0.5))
    loader = TrainLoader(images, TrainTransform((16, 16), color_jitter=0.4), batch, batch_size=4, workers=workers)
    return list(loader.epoch(epoch))


def first_ten(images: FolderImages | KeptImages) -> list[tuple[torch.Tensor, torch.Tensor]]:
    from t2t_vit.data.images import Subset

    return list(EvalLoader(Subset(images, np.arange(10)), Preprocessing((16, 16)), batch_size=10))


def test_what_does_not_fit_is_said_and_left_alone(folder: Path) -> None:
    images = FolderImages(folder, "RGB")
    notes: list[str] = []
    kept, left = keep_decoded(images, "RGB", 500, sizes_of(images), what="12 training images", note=notes.append)
    assert kept is images
    assert left == 500
    assert notes[0].startswith("cache: the 12 training images, 20.1 KiB, do not fit the 500 bytes that they may take: ")
    assert len(notes) == 1


def test_what_fits_is_kept_and_the_largest_are_not(folder: Path) -> None:
    """One image of 2,000 x 2,000 pixels, which takes more room than all the others, does not turn the cache off."""
    Image.new("RGB", (2000, 2000)).save(folder / "a" / "huge.png")
    images = Counting(folder)
    notes: list[str] = []
    kept, left = keep_decoded(images, "RGB", 30_000, sizes_of(images), what="13 training images", note=notes.append)
    assert notes[0].startswith(
        "cache: of the 13 training images 11 are decoded once and stay in memory, 20.1 KiB; the "
    )
    assert notes[0].endswith("the largest (1, 11.4 MiB) are decoded in every epoch")
    assert 0 < left < 30_000
    huge = next(i for i in range(13) if images.name(i).endswith("huge.png"))
    broken = next(i for i in range(13) if images.name(i).endswith("b/5.jpg"))
    good = [i for i in range(13) if i != broken]
    for _ in range(2):
        for index in good:
            assert kept.read(index).tobytes() == FolderImages(folder, "RGB").read(index).tobytes()
    assert [images.decoded.count(i) for i in good] == [2 if i == huge else 1 for i in good]


def test_the_budget_holds_where_the_estimate_was_wrong(folder: Path) -> None:
    counting, file = Counting(folder), MemoryFile()
    kept = KeptImages(counting, "RGB", ByteStore(file, 12, budget=4000), np.ones(len(counting), np.bool_))
    for _ in range(2):
        for index in range(11):
            kept.read(index)
    assert 2000 < file.size <= 4000
    assert 11 < len(counting.decoded) < 22  # some stayed, the others were decoded again


def test_processes_of_a_machine_share_one_memory(folder: Path) -> None:
    first = Counting(folder)
    places: list[tuple[int, int] | None] = []
    sizes = sizes_of(first)
    kept, _ = keep_decoded(
        first, "RGB", LARGE, sizes, what="images", share=lambda p: places.append(p) or p, note=NOTES.append
    )
    second = Counting(folder)
    same, _ = keep_decoded(
        second, "RGB", LARGE, sizes, what="", first=False, share=lambda _: places[0], note=NOTES.append
    )
    held = kept.read(0).tobytes()
    assert same.read(0).tobytes() == held
    assert second.decoded == []
    third, _ = keep_decoded(second, "RGB", LARGE, sizes, what="", first=False, share=lambda _: None, note=NOTES.append)
    assert third is second


def test_another_process_reads_and_adds(folder: Path) -> None:
    counting, file = Counting(folder), MemoryFile()
    kept = KeptImages(counting, "RGB", ByteStore(file, 12, LARGE), np.ones(len(counting), np.bool_))
    kept.read(0)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=read_all, args=(kept, 10))
    process.start()
    process.join()
    assert process.exitcode == 0
    counting.decoded.clear()
    plain = FolderImages(folder, "RGB")
    assert all(kept.read(index).tobytes() == plain.read(index).tobytes() for index in range(10))
    assert counting.decoded == []


def read_all(kept: KeptImages, count: int) -> None:
    for index in range(count):
        kept.read(index)


def test_pieces_of_several_writers_do_not_mix() -> None:
    """Two descriptors of the same file, in turn and overlapping: what is read is what was put."""
    file = MemoryFile()
    ours = ByteStore(file, 100, LARGE)
    theirs = pickle.loads(pickle.dumps(ours))
    for number in range(0, 100, 2):
        assert ours.put(number, bytes([number]) * (number + 1), number, 0)
        assert theirs.put(number + 1, bytes([number + 1]) * (number + 2), number + 1, 0)
    for number in range(100):
        assert ours.get(number) == theirs.get(number) == (bytes([number]) * (number + 1), number, 0)


def test_a_full_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ByteStore(MemoryFile(), 2, LARGE)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    assert not store.put(0, b"abc", 1, 3)
    assert store.get(0) is None


def test_memory_is_given_back() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    store = ByteStore(MemoryFile(), 2, LARGE)
    store.put(0, b"abc", 1, 3)
    view = SharedArray(np.zeros((4, 4), np.uint8)).view()
    del store, view
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_array_is_shared_to_the_byte() -> None:
    pixels = np.arange(240, dtype=np.uint8).reshape(4, 5, 12)[:, ::2]
    shared = SharedArray(pixels)
    there = pickle.loads(pickle.dumps(shared))
    assert np.array_equal(there.view(), pixels)
    assert np.array_equal(shared.view(), pixels)
