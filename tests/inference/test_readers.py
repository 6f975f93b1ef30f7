"""Decoding in threads and in processes, and what the death of one costs."""

import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hostile import Deadly, DeadlyOnce
from t2t_vit.data import workers
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference import readers
from t2t_vit.inference.readers import Readers

LONG = 600  # seconds, on a busy machine; nobody waits for them


def encoded(size: tuple[int, int], colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_paths_and_bytes_give_the_pixels_of_the_preprocessing(tmp_path: Path, count: int) -> None:
    preprocessing = Preprocessing((8, 10))
    name = os.fsdecode(b"\xff.png")
    (tmp_path / name).write_bytes(encoded((20, 30), "red"))
    reading = Readers(preprocessing, count)
    images = [reading.read(source) for source in (str(tmp_path / name), encoded((9, 9), "lime"), b"no image")]
    reading.flush()
    for image, colour in zip(images, ("red", "lime"), strict=False):
        expected = preprocessing(Image.new("RGB", (20, 30), colour))
        assert torch.equal(image.result(LONG), expected)
    assert images[2].result(LONG) == "it is not an image, or its format is not supported"
    reading.close()


def test_images_that_are_no_squares_come_from_processes_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for count in (0, 1):
        reading = Readers(Preprocessing((6, 10), 1.0), count)
        image = reading.read(str(tmp_path / "x.png"))
        reading.flush()
        assert np.array_equal(image.result(LONG).permute(1, 2, 0).numpy(), pixels)
        reading.close()


def test_one_death_is_forgiven(tmp_path: Path) -> None:
    """A process may be killed for the memory that another one took; the image is read by the next one."""
    reading = Readers(DeadlyOnce(tmp_path / "died"), 1)
    image = reading.read(encoded((9, 9), "lime"))
    reading.flush()
    assert image.result(LONG)[:, 0, 0].tolist() == [0, 255, 0]
    assert (tmp_path / "died").exists()
    reading.close()


def test_a_death_costs_one_image() -> None:
    reading = Readers(Deadly((8, 8)), 2)
    sizes = [13 if number in (0, 20, 21, 39) else 9 for number in range(40)]
    images = [reading.read(encoded((size, 9), "red")) for size in sizes]
    reading.flush()
    for size, image in zip(sizes, images, strict=True):
        if size == 13:
            assert "was killed" in image.result(LONG)
        else:
            assert image.result(LONG).shape == (3, 8, 8)
    reading.close()


@pytest.mark.parametrize("size", [300, 3000])
def test_no_more_bytes_are_held_than_are_allowed(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images a batch has, the one that reads an archive waits for the decoder."""
    monkeypatch.setattr(readers, "_MOST_BYTES", 1000)
    may_decode, waiting = threading.Semaphore(0), list[bytes]()

    class Slow(Readers):
        def _here(self, source: str | bytes) -> str:
            assert may_decode.acquire(timeout=LONG)
            return f"{len(source)} bytes that are no image"

    reading = Slow(Preprocessing((8, 8)))

    def read() -> None:
        for number in range(12):
            waiting.append(bytes([number]))
            reading.read(bytes(size))

    thread = threading.Thread(target=read)
    thread.start()
    for decoded in range(12):
        thread.join(0.05)
        assert len(waiting) <= decoded + 1 + 1000 // size
        may_decode.release()
    thread.join(LONG)
    assert len(waiting) == 12
    reading.read(b"")
    reading.close()
    assert sum(size for size, _ in reading._held) <= 1000 + size


def test_processes_that_do_not_start_are_not_the_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_servers", {})
    monkeypatch.setattr(sys, "executable", "nowhere")
    reading = Readers(Preprocessing((8, 8)), 1)
    image = reading.read(b"")
    reading.flush()
    with pytest.raises(UserError, match=r"cannot be started here \(No such file.*--workers 0 decodes without them"):
        image.result(LONG)
    reading.close()


def test_closing_waits_for_nobody() -> None:
    before = threading.active_count()
    reading = Readers(Preprocessing((8, 8)), 1)
    for _ in range(100):
        reading.read(encoded((400, 400), "red"))
    reading.close()
    assert threading.active_count() == before


def test_one_core_is_left_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert [readers.usable_workers(wanted) for wanted in (0, 2, 8)] == [0, 2, 3]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert readers.usable_workers(8) == 1
