import re
from pathlib import Path

import numpy as np
import pytest

from t2t_vit.data.datasets import open_images, open_training_images
from t2t_vit.errors import UserError


def record(*labels: int, value: int) -> bytes:
    planes = np.repeat(np.array([value, value + 1, value + 2], np.uint8), 1024)
    return bytes(labels) + planes.tobytes()


def cifar10(root: Path) -> Path:
    root.mkdir(parents=True)
    for i in range(1, 6):
        (root / f"data_batch_{i}.bin").write_bytes(record(1, value=i) + record(0, value=10 * i))
    (root / "test_batch.bin").write_bytes(record(1, value=99))
    (root / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
    return root


@pytest.mark.parametrize("url", ["cifar-10-batches-bin", ""])
def test_cifar10_from_its_folder_or_the_one_above(tmp_path: Path, url: str) -> None:
    cifar10(tmp_path / "cifar-10-batches-bin")
    train, val = open_training_images(dataset="CIFAR10", data_url=str(tmp_path / url))
    assert (len(train), len(val)) == (10, 1)
    assert train.classes == ("airplane", "automobile")
    assert train.targets.tolist() == [1, 0] * 5
    assert train.read(1).getpixel((3, 4)) == (10, 11, 12)
    assert val.read(0).size == (32, 32)
    assert val.name(0) == "CIFAR-10 val image 0"


def test_pixels_lie_in_their_rows_columns_and_colours(tmp_path: Path) -> None:
    planes = np.arange(3 * 32 * 32).astype(np.uint8).reshape(3, 32, 32)
    planes[2] //= 3
    cifar10(tmp_path / "x")
    (tmp_path / "x/test_batch.bin").write_bytes(b"\1" + planes.tobytes() + b"\0" + planes[::-1].tobytes())
    images = open_images("val", dataset="CIFAR10", data_url=str(tmp_path / "x"))
    assert images.targets.tolist() == [1, 0]
    np.testing.assert_array_equal(np.asarray(images.read(0)), planes.transpose(1, 2, 0))
    np.testing.assert_array_equal(np.asarray(images.read(1)), planes[::-1].transpose(1, 2, 0))


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(record(7, 1, value=5))
    (tmp_path / "test.bin").write_bytes(record(7, 0, value=5))
    (tmp_path / "fine_label_names.txt").write_text("apple\naquarium_fish\n")
    assert open_images("train", dataset="CIFAR100", data_url=str(tmp_path)).targets.tolist() == [1]


def test_cifar_mistakes(tmp_path: Path) -> None:
    def cifar(url: Path | str) -> None:
        open_images("train", dataset="CIFAR10", data_url=str(url))

    with pytest.raises(UserError, match="needs data_url"):
        cifar("")
    with pytest.raises(UserError, match="not a folder"):
        cifar(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=re.escape("has no test_batch.bin; data_url must hold the files of cifar-10-binary.tar.gz")
    ):
        cifar(tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match="is an archive; unpack it in the same folder"):
        cifar(tmp_path)
    for name in ("cifar-10-batches-py", "py"):
        (tmp_path / name).mkdir()
    (tmp_path / "py" / "data_batch_1").write_bytes(b"")
    for url in (tmp_path, tmp_path / "py"):
        with pytest.raises(
            UserError, match=r"python layout of CIFAR-10, which is pickle.*take cifar-10-binary.tar.gz instead"
        ):
            cifar(url)
    root = cifar10(tmp_path / "bin")
    whole = (root / "data_batch_3.bin").read_bytes()
    (root / "data_batch_3.bin").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"data_batch_3.bin is truncated"):
        cifar(root)
    (root / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3.bin cannot be read"):
        cifar(root)
    (root / "data_batch_3.bin").write_bytes(record(2, value=0))
    with pytest.raises(UserError, match=r"has the label 2 but batches.meta.txt names 2 classes"):
        cifar(root)
    (root / "batches.meta.txt").unlink()
    with pytest.raises(UserError, match=r"class names in .* cannot be read"):
        cifar(root)


def test_pipes_and_devices_in_the_place_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").symlink_to("/dev/zero")
    (tmp_path / "batches.meta.txt").symlink_to("/dev/zero")
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"class names in .* cannot be read .*not a regular file"):
        open_images("val", dataset="CIFAR10", data_url=str(tmp_path))
    (tmp_path / "batches.meta.txt").unlink()
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"test_batch.bin cannot be read \(it is not a regular file\)"):
        open_images("val", dataset="CIFAR10", data_url=str(tmp_path))
