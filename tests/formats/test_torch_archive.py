"""Files of torch.save without torch: what they hold, and what hostile ones cost."""

import argparse
import io
import pickle
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.formats.plain_pickle import MOST_OPERATIONS, Namespace
from t2t_vit.formats.torch_archive import read_torch_archive
from t2t_vit.formats.torch_globals import StoredTensor
from t2t_vit.weights.torch_file import tensors_of

SETTINGS = {
    "args": argparse.Namespace(lr=5e-4, betas=(0.9, 0.999), name="T2t", nested={"a": [1, None, True]}),
    "scalars": [np.float64(81.5), np.int64(-3), np.float32(0.5), np.bool_(True), np.uint8(7)],
    "size": torch.Size([1, 2]),
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "set": {1, 2},
    "big": 2**70,
    "ordered": OrderedDict(a=1),
    7: "a number as a key",
}


@pytest.mark.parametrize("as_zip", [True, False])
def test_settings_come_as_plain_values(tmp_path: Path, as_zip: bool) -> None:
    torch.save(SETTINGS, tmp_path / "x.pth", _use_new_zipfile_serialization=as_zip)
    found = read_torch_archive(tmp_path / "x.pth").content
    assert found["args"] == Namespace({"lr": 5e-4, "betas": (0.9, 0.999), "name": "T2t", "nested": {"a": [1, None, 1]}})
    assert found["scalars"] == [81.5, -3, 0.5, True, 7]
    assert (found["size"], found["set"], found["big"]) == ((1, 2), [1, 2], 2**70)
    assert found["ordered"] == {"a": 1} and found[7] == "a number as a key"


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0)
    names = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
        "bool",
    ]
    return {
        **{name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in names},
        "view": base[4:10],
        "transposed": base.reshape(4, 6).t(),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "single": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_are_those_that_torch_reads(tmp_path: Path, as_zip: bool) -> None:
    torch.save(tensors(), tmp_path / "x.pth", _use_new_zipfile_serialization=as_zip)
    file = read_torch_archive(tmp_path / "x.pth")
    assert all(type(tensor) is StoredTensor for tensor in file.content.values())
    for name, tensor in tensors_of(file, file.content).items():
        expected = tensors()[name]
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected), name


def test_the_file_is_not_changed_through_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(3)}, path)
    before, file = path.read_bytes(), read_torch_archive(path)
    tensors_of(file, file.content)["a"].fill_(7.0)
    assert path.read_bytes() == before


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, data: bytes = b"\0" * 64) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", pickled)
        file.writestr("x/byteorder", b"little")
        file.writestr("x/data/0", data)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(count: int = 16) -> bytes:
    parts = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count)
    return b"(" + parts + b"tQ"


def rebuilt(offset: int, shape: tuple[int, ...], stride: tuple[int, ...], count: int = 16) -> bytes:
    sides = b"(" + b"".join(map(number, shape)) + b"t" + b"(" + b"".join(map(number, stride)) + b"t"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count) + number(offset) + sides + b"\x89}tR"
    return b"\x80\x02}" + text("a") + call + b"s."


PICKLES: dict[str, bytes] = {
    "a memo of four billion places": b"\x80\x02}r\xff\xff\xff\xffq\xff0.",
    "ten gigabytes of zeros": b"\x80\x02c__builtin__\nbytearray\n" + number(10**10) + b"\x85R.",
    "a NumPy type of a gigabyte": b"\x80\x02cnumpy\ndtype\n" + text("V1000000000") + b"\x85R.",
    "a scalar without content": b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
    + text("f8")
    + b"\x85R\x85R.",
    "lists in lists": b"\x80\x02" + b"]" * 300_000 + b"a" * 200_000 + b".",
    "tuples in tuples as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "a tuple of itself twice, again and again": b"\x80\x02})" + b"q\0h\0\x86" * 100 + b"Ns.",
    "the same as a message": b"\x80\x02)" + b"q\0h\0\x86" * 100 + b"cnumpy\ndtype\nq\0000h\0R.",
    "a list as a function": b"\x80\x02]]R.",
    "a system call": b"\x80\x02cposix\nsystem\n" + text("echo") + b"\x85R.",
    "a class that is only a name": b"\x80\x02ctorch\nFloatStorage\n" + number(10**10) + b"\x85R.",
    "no end": b"\x80\x02" + b"N" * 100,
    "nothing": b"",
    "a mark where a value belongs": b"\x80\x02((s.",
    "a text of four gigabytes": b"\x80\x02X\xff\xff\xff\xffabc.",
    "too many operations": b"\x80\x02" + b"}" * (MOST_OPERATIONS + 5),
    "a shape of ten billion": rebuilt(0, (10**10,), (1,)),
    "ten billion times one element": rebuilt(0, (10**10,), (0,)),
    "an offset outside": rebuilt(10**12, (1,), (1,)),
    "a negative stride": rebuilt(0, (2,), (-1,)),
    "a storage of ten billion": rebuilt(0, (4,), (1,), count=10**10),
    "a storage of less than nothing": rebuilt(0, (4,), (1,), count=-5),
}


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickles_are_one_sentence_and_cost_little(tmp_path: Path, case: str) -> None:
    path = archive(tmp_path / "x.pth", PICKLES[case])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError) as error:
        file = read_torch_archive(path)
        assert not isinstance(file.content, list), "only depth, which harms nobody who looks at dictionaries"
        tensors_of(file, file.content)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 400
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (64 + 2) * 1024


def test_many_tensors_in_one_storage_are_not_more_than_the_file(tmp_path: Path) -> None:
    shared = torch.zeros(1000, 100)
    torch.save({f"{index}": shared for index in range(50)}, tmp_path / "x.pth")
    file = read_torch_archive(tmp_path / "x.pth")
    with pytest.raises(UserError, match="larger than the file"):
        tensors_of(file, file.content)


def test_compressed_entries_are_refused_before_they_unpack(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("x/data.pkl", "w") as entry:
        for _ in range(64):
            entry.write(b"]" * 2**20)
    with pytest.raises(UserError, match="entries of the archive are compressed"):
        read_torch_archive(path)


def changed(whole: bytes, old: bytes, at: int, new: bytes) -> bytes:
    place = whole.rindex(old) + at
    return whole[:place] + new + whole[place + len(new) :]


ZIPS: dict[str, Callable[[bytes], bytes]] = {
    "more entries than there are": lambda whole: changed(whole, b"PK\5\6", 10, b"\xff\xfe"),
    "a directory past the end": lambda whole: changed(whole, b"PK\5\6", 16, b"\xff\xff\xff\x7f"),
    "an entry past the end": lambda whole: changed(whole, b"PK\1\2", 20, b"\xff\xff\xff\x7f" * 2),
    "an entry of 64 bits": lambda whole: changed(whole, b"PK\1\2", 20, b"\xff\xff\xff\xff" * 2),
    "a local header past the end": lambda whole: changed(whole, b"PK\1\2", 42, b"\xff\xff\xff\x7f"),
    "encryption": lambda whole: changed(whole, b"PK\1\2", 8, b"\1"),
    "no directory": lambda whole: whole[:-40],
    "no end": lambda whole: whole.replace(b"PK\5\6", b"PK\5\7"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_hostile_directories_are_one_sentence(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(3)}, path)
    path.write_bytes(ZIPS[case](path.read_bytes()))
    with pytest.raises(UserError, match=r"cut short|damaged|compressed"):
        file = read_torch_archive(path)
        tensors_of(file, file.content)


def test_a_bit_that_changed_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.full((100,), 0.25)}, path)
    path.write_bytes(path.read_bytes().replace(b"\0\0\x80\x3e" * 100, b"\0\0\x80\x3e" * 99 + b"\0\0\x81\x3e"))
    file = read_torch_archive(path)
    with pytest.raises(UserError, match="checksum of a tensor"):
        tensors_of(file, file.content)


def test_an_archive_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    file = read_torch_archive(tmp_path / "x.pth")
    assert torch.equal(tensors_of(file, file.content)["a"], torch.ones(3))


def test_a_program_and_a_big_endian_file(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x/constants.pkl", b"")
    with pytest.raises(UserError, match="TorchScript program"):
        read_torch_archive(path)
    path.write_bytes(archive(tmp_path / "y.pth", b"\x80\x02}.").read_bytes().replace(b"little", b"big   "))
    with pytest.raises(UserError, match="big-endian"):
        read_torch_archive(path)


def test_a_stream_whose_storages_are_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(500)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="cut short"):
        read_torch_archive(path)


def test_a_stream_of_another_program(tmp_path: Path) -> None:
    stream: Any = io.BytesIO()
    for value in (1, 2, 3):
        pickle.dump(value, stream, protocol=2)
    (tmp_path / "x.pth").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="does not begin as torch's do"):
        read_torch_archive(tmp_path / "x.pth")
