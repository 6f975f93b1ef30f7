"""`train --preview`: a picture of what the recipe makes of the training images, and no training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2t_vit.cli.main import main

KEYS = [
    "--arch=t2t_vit_quickstart", "--image_size=28", "--in_chans=1", "--mean=0.5", "--std=0.5",
    "--dataset=FashionMNIST", "--train_num_samples=80", "--device=cpu",
]  # fmt: skip
PLAIN = [
    "--auto_augment=", "--color_jitter=0", "--re_prob=0", "--cutmix=0", "--mixup=0", "--hflip=0", "--min_crop=1"
]  # fmt: skip


def picture(path: str, *words: str) -> np.ndarray:
    assert main(["train", *KEYS, *words, "--preview", path]) == 0
    return np.asarray(Image.open(path))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_picture_shows_64_images_and_nothing_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    shown = picture("seen/a.png")
    out, err = capsys.readouterr()
    assert out == "seen/a.png\n" and "64 augmented training images" in err
    assert shown.shape == ((8 * 30 - 2) * 3, (8 * 30 - 2) * 3, 3)
    assert [path.name for path in Path().iterdir()] == ["seen"]


def test_it_shows_what_the_keys_say() -> None:
    plain, erased = picture("a.png", *PLAIN), picture("b.png", *PLAIN, "--re_prob=1", "--re_mode=const")
    assert np.array_equal(plain, picture("c.png", *PLAIN))
    changed = (plain != erased).any(2)
    cells = [
        changed[90 * row : 90 * row + 84, 90 * column : 90 * column + 84] for row in range(8) for column in range(8)
    ]
    assert all(0.01 < cell.mean() < 0.6 for cell in cells)
    assert not np.array_equal(plain, picture("d.png", *PLAIN, "--mixup=1"))


def test_fewer_images_than_the_picture_has_room_for() -> None:
    assert picture("a.png", "--train_num_samples=11").shape[1] == (3 * 30 - 2) * 3


def test_a_place_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *KEYS, "--preview", "."]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.jpg", "a.txt", "a"])
def test_another_ending_would_lie_about_what_is_in_the_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *KEYS, "--preview", name]) == 2
    assert f"--preview writes a PNG; give a file name that ends in .png, not {name}" in capsys.readouterr().err
    assert not Path(name).exists()
