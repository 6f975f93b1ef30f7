"""The answers to single images: written whole, read with care, and paired by what an image is."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.data.folder import FolderImages
from t2t_vit.data.image_fingerprints import image_fingerprints
from t2t_vit.data.images import ArrayImages, Subset
from t2t_vit.errors import UserError
from t2t_vit.evaluation.answers import ANSWER, read_answers, write_answers
from t2t_vit.evaluation.outcomes import Outcomes


def photos(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8 + number, 8), (number * 40, 9, 9)).save(folder / name / f"{number}.png")
    return folder


def in_memory(count: int = 6) -> ArrayImages:
    pixels = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2)
    return ArrayImages(pixels, np.arange(count) % 2, ("cat", "dog"), "L", "a set")


def outcomes(target: list[int], predicted: list[int], number: list[int] | None = None) -> Outcomes:
    sure = torch.full((len(target),), 0.5, dtype=torch.float64)
    rank = torch.tensor([int(t != p) for t, p in zip(target, predicted, strict=True)])
    numbers = None if number is None else torch.tensor(number)
    return Outcomes(torch.tensor(target), torch.tensor(predicted), sure, sure, rank, numbers)


def test_they_come_back_sorted_by_image(tmp_path: Path) -> None:
    images = in_memory()
    write_answers(tmp_path / "answers.npy", outcomes([0, 1, 0, 1], [0, 0, 1, -1], [0, 1, 4, 5]), images)
    rows = read_answers(tmp_path / "answers.npy")
    assert (np.diff(rows["image"].astype(object)) > 0).all()
    own = dict(zip(image_fingerprints(images, [0, 1, 4, 5]).tolist(), [(0, 0), (1, 0), (0, 1), (1, -1)], strict=True))
    assert {int(row["image"]): (int(row["target"]), int(row["predicted"])) for row in rows} == own
    assert np.load(tmp_path / "answers.npy").nbytes == 4 * 20
    assert sorted(tmp_path.iterdir()) == [tmp_path / "answers.npy"]


def test_an_image_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    here = FolderImages(photos(tmp_path / "here"), "RGB")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = FolderImages(tmp_path / "there", "L")
    numbers = range(6)
    first = image_fingerprints(here, numbers)
    assert len(set(first.tolist())) == 6
    assert (image_fingerprints(there, numbers) == first).all()
    part = Subset(there, np.array([4, 1]))
    assert (image_fingerprints(part, [0, 1]) == first[[4, 1]]).all()


def test_another_image_of_the_same_name_is_another(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    before = image_fingerprints(FolderImages(folder, "RGB"), range(6))
    Image.new("RGB", (200, 90)).save(folder / "cat/0.png")
    images = FolderImages(folder, "RGB")
    (folder / "dog/2.png").unlink()
    assert (image_fingerprints(images, range(6)) != before).tolist() == [True, False, False, False, False, True]


def test_images_in_memory_count_by_their_pixels_and_class() -> None:
    images, other = in_memory(), in_memory()
    other.pixels = other.pixels.copy()
    other.pixels[2, 0, 0] += 1
    other.targets = np.array([0, 1, 0, 0, 0, 1])
    same = image_fingerprints(images, range(6)) == image_fingerprints(other, range(6))
    assert same.tolist() == [True, True, False, False, True, True]
    part = Subset(Subset(images, np.array([5, 3, 1])), np.array([1]))
    assert image_fingerprints(part, [0]) == image_fingerprints(images, [3])


def array_file(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


WHOLE = array_file(np.array([(1, 0, 0, 0.5), (2, 1, 1, 0.5)], ANSWER))
LYING = WHOLE.replace(b"(2,), }          ", b"(99999999,), }   ")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no array", WHOLE[:-1], WHOLE + b"\0", WHOLE[:60], LYING,
        array_file(np.zeros(3)),
        array_file(np.zeros((2, 2), ANSWER)),
        array_file(np.zeros(0, ANSWER)),
        array_file(np.zeros(2, ANSWER)),  # an image twice
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x01\x00\x20\x00{'descr': __import__('os')      }",
    ],
)  # fmt: skip
def test_a_file_that_is_not_one_is_refused(content: bytes, tmp_path: Path) -> None:
    assert LYING != WHOLE
    (tmp_path / "answers.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"answers\.npy: is not a file of answers \(.*\); remove it") as caught:
        read_answers(tmp_path / "answers.npy")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file of answers"):
        read_answers(tmp_path)


def test_the_rows_fit_what_reads_them() -> None:
    assert ANSWER.itemsize == 20
