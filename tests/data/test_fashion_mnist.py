import gzip
import hashlib
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2t_vit.data import fashion_mnist
from t2t_vit.data.datasets import open_images, open_training_images
from t2t_vit.errors import UserError


def test_embedded_fashion_mnist() -> None:
    train, val = open_training_images(dataset="FashionMNIST", in_chans=1)
    assert (len(train), len(val)) == (12000, 2000)
    assert np.bincount(train.targets).tolist() == [1200] * 10
    assert train.classes[0] == "t-shirt_top"
    assert train.classes[9] == "ankle_boot"
    assert train.read(0).size == (28, 28)
    assert 60 < train.pixels.mean() < 85  # the data set's mean is 72.9
    assert open_images("val", dataset="FashionMNIST").read(3).mode == "RGB"
    assert "2000" not in val.name(3)
    assert (Path(fashion_mnist.__file__).parent / "fashion_mnist" / "LICENSE").read_text().count("Zalando") == 1


def test_a_sheet_is_cut_row_by_row(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in tiles.reshape(2, 3, 28, 28)])
    Image.fromarray(sheet).save(tmp_path / "x.png")
    np.testing.assert_array_equal(fashion_mnist._sheet(tmp_path / "x.png"), tiles)


def test_every_class_has_its_own_sheet_and_the_parts_are_apart() -> None:
    train, val = open_training_images(dataset="FashionMNIST", in_chans=1)
    assert np.bincount(val.targets).tolist() == [200] * 10
    means = [train.pixels[train.targets == label].mean() for label in range(10)]
    other = [val.pixels[val.targets == label].mean() for label in range(10)]
    np.testing.assert_allclose(means, other, rtol=0.15)
    assert means[8] > 1.5 * means[1]  # bags are large, trousers slim
    assert not {each.tobytes() for each in val.pixels} & {each.tobytes() for each in train.pixels[:3000]}


def idx(folder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    pixels, labels = np.arange(3 * 784) % 251, np.array([9, 0, 4])
    contents = {
        "_IMAGES": bytes(16) + pixels.astype(np.uint8).tobytes(),
        "_LABELS": bytes(8) + labels.astype(np.uint8).tobytes(),
    }
    for table, content in contents.items():
        name = getattr(fashion_mnist, table)["train"][0]
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
        monkeypatch.setitem(getattr(fashion_mnist, table), "train", (name, hashlib.sha256(content).hexdigest()[:16]))


@pytest.mark.parametrize("packed", [True, False])
def test_full_fashion_mnist_from_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    idx(tmp_path, monkeypatch, packed)
    images = open_images("train", dataset="FashionMNIST", data_url=str(tmp_path), in_chans=1)
    assert images.targets.tolist() == [9, 0, 4]
    assert np.asarray(images.read(1)).ravel()[:2].tolist() == [784 % 251, 785 % 251]


def test_idx_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(url: Path) -> None:
        open_images("train", dataset="FashionMNIST", data_url=str(url))

    with pytest.raises(UserError, match="not a folder; leave it empty"):
        full(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no train-images-idx3-ubyte.gz"):
        full(tmp_path)
    idx(tmp_path, monkeypatch, True)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="damaged"):
        full(tmp_path)
    path.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="damaged"):
        full(tmp_path)
    path.write_bytes(gzip.compress(bytes(11)))
    with pytest.raises(UserError, match="not Fashion-MNIST's"):
        full(tmp_path)


def test_a_gzip_is_unpacked_no_further_than_the_data_set_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idx(tmp_path, monkeypatch, True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(2**20)) * 500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="not Fashion-MNIST's"):
        open_images("train", dataset="FashionMNIST", data_url=str(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="it is not a regular file"):
        open_images("train", dataset="FashionMNIST", data_url=str(tmp_path))
