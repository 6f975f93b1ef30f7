"""Files of torch.save: what they hold, and what hostile ones cost."""

import argparse
import datetime
import io
import pickle
import resource
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.formats.pickle_scan import MOST_OPERATIONS
from t2t_vit.formats.torch_archive import read_torch_archive
from t2t_vit.formats.zip_directory import read_directory
from t2t_vit.weights.torch_file import own_content

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
SETTINGS = {
    "args": argparse.Namespace(lr=5e-4, betas=(0.9, 0.999), name="T2t", nested={"a": [1, None, True]}),
    "scalars": [np.float64(81.5), np.int64(-3), np.float32(0.5), np.bool_(True), np.uint8(7)],
    "limits": [np.dtype(kind).type(limit) for kind in INTEGERS for limit in (np.iinfo(kind).min, np.iinfo(kind).max)],
    "half": np.float16(-2.5),
    "integers": [0, 255, 256, 40_000, 65_535, 65_536, -1, -70_000, 2**31 - 1, -(2**31), 2**31, -(2**70)],
    "pairs": [("a", 1), ("b", 2, "c"), (), (1, 2, 3, 4)],
    "size": torch.Size([1, 2]),
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "set": {1, 2},
    "big": 2**70,
    "ordered": OrderedDict(a=1),
    "counter": Counter({3: 2, 5: 1}),
    "path": Path("runs/a b"),
    "when": datetime.datetime(2026, 11, 29, 12, 30),
    7: "a number as a key",
}


PROTOCOLS = [2, 3, 4, 5]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("as_zip", [True, False])
def test_settings_come_as_plain_values(tmp_path: Path, as_zip: bool, protocol: int) -> None:
    content = {key: value for key, value in SETTINGS.items() if key != "set" or protocol < 4}
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=as_zip, pickle_protocol=protocol)
    found = read_torch_archive(path)
    assert found["scalars"] == [81.5, -3, 0.5, True, 7]
    assert found["limits"] == [int(limit) for limit in SETTINGS["limits"]] and found["half"] == -2.5
    plain = ("args", "integers", "pairs", "size", "dtype", "big", "ordered", "counter", "when", 7)
    for key in (*plain, *(("set",) if protocol < 4 else ())):
        assert found[key] == SETTINGS[key], key
    assert str(found["path"]) == "runs/a b"


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
        "expanded": torch.tensor([2.5]).expand(7, 3),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_are_those_that_were_saved(tmp_path: Path, as_zip: bool, protocol: int) -> None:
    path = tmp_path / "x.pth"
    saved = {name: tensor for name, tensor in tensors().items() if as_zip or name not in ("uint16", "uint32")}
    torch.save(saved, path, _use_new_zipfile_serialization=as_zip, pickle_protocol=protocol)
    found = read_torch_archive(path)
    assert found.keys() == saved.keys()
    for name, tensor in found.items():
        expected = tensors()[name]
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected), name


def test_the_file_is_not_changed_through_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(3)}, path)
    before, content = path.read_bytes(), read_torch_archive(path)
    content["a"].fill_(7.0)
    assert path.read_bytes() == before


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, data: bytes = b"\0" * 64) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", pickled)
        file.writestr("x/byteorder", b"little")
        file.writestr("x/version", b"3\n")
        file.writestr("x/data/0", data)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(count: int = 16, view: tuple[int, int] | None = None) -> bytes:
    parts = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count)
    if view is not None:  # of torch before 0.4: the view's own key, where it starts and how many it has
        parts += b"(" + text("view") + number(view[0]) + number(view[1]) + b"t"
    return b"(" + parts + b"tQ"


def rebuilt(
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    count: int = 16,
    view: tuple[int, int] | None = None,
) -> bytes:
    sides = b"(" + b"".join(map(number, shape)) + b"t" + b"(" + b"".join(map(number, stride)) + b"t"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count, view) + number(offset) + sides + b"\x89}tR"
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
    "an offset outside": rebuilt(10**12, (1,), (1,)),
    "a negative stride": rebuilt(0, (2,), (-1,)),
    "a storage of ten billion": rebuilt(0, (4,), (1,), count=10**10),
    "a storage of less than nothing": rebuilt(0, (4,), (1,), count=-5),
    "one element more than the storage": rebuilt(0, (17,), (1,)),
    "an offset past the storage's end": rebuilt(15, (2,), (1,)),
    "a view past its storage": rebuilt(0, (2,), (1,), view=(15, 2)),
    "seventeen dimensions": rebuilt(0, (1,) * 17, (1,) * 17),
    "a set built again and again from one list": b"\x80\x02]q\0("
    + b"K\1" * 1000
    + b"ec__builtin__\nset\nq\1"
    + b"h\1h\0\x85R" * 2000
    + b".",
    "a text encoded again and again": b"\x80\x02"
    + text("a" * 1000)
    + b"q\0c_codecs\nencode\nq\1"
    + text("latin1")
    + b"q\2"
    + b"h\1h\0h\2\x86R" * 2000
    + b".",
    "a namespace that is updated again and again": b"\x80\x02}q\0("
    + b"".join(text(f"{n:04}") + b"N" for n in range(1000))
    + b"ucargparse\nNamespace\n)R"
    + b"h\0b" * 2000
    + b".",
    "a tensor class with a size": b"\x80\x02ctorch\nFloatTensor\n" + number(10**10) + b"\x85R.",
    "a tensor of another tensor's state": rebuilt(0, (1,), (1,))[:-2] + b"(" + storage() + b"K\0)" + b")tbs.",
    "a storage of two lengths": b"\x80\x02(" + storage(4) + storage(16) + b"t.",
    "a text of protocol 4 again and again": b"\x80\x04]\x94("
    + b"\x8c\xc8"
    + b"a" * 200
    + b"\x94"
    + b"h\1" * 20_000
    + b"e.",
    "a mark that is missing": b"\x80\x02e.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickles_are_one_sentence_and_cost_little(tmp_path: Path, case: str) -> None:
    path = archive(tmp_path / "x.pth", PICKLES[case])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as error:
        read_torch_archive(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (64 + 2) * 1024


@pytest.mark.parametrize(
    ("pickled", "told"),
    [
        (b"\x80\x02cposix\nsystem\n.", r"holds a Python object \(posix.system\), and loading one could run code"),
        (b"\x80\x02]" + b"Na" * (MOST_OPERATIONS // 2) + b".", "more than 400,000 operations"),
        (b"\x80\x02})Ns.", "a key that is neither text nor a number"),
        (b"\x80\x02" + b"(" * 101 + b"N" + b"t" * 101 + b".", "nested too deeply"),
        (b"\x80\x02ctorch._utils\n_rebuild_wrapper_subclass\n.", "torch._utils._rebuild_wrapper_subclass"),
        (b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n.", "numpy._core.multiarray._reconstruct"),
    ],
)
def test_what_is_refused_though_it_might_load(tmp_path: Path, pickled: bytes, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_torch_archive(archive(tmp_path / "x.pth", pickled))


def test_the_last_element_of_a_storage_may_be_had(tmp_path: Path) -> None:
    data = np.arange(16, dtype="<f4").tobytes()
    path = archive(tmp_path / "x.pth", rebuilt(15, (1,), (1,)), data=data)
    assert read_torch_archive(path)["a"].tolist() == [15]


@pytest.mark.parametrize("content", [torch.zeros(1, 1).expand(10**5, 10**5), torch.zeros(1000, 100)])
def test_a_run_takes_no_more_memory_than_its_file(tmp_path: Path, content: torch.Tensor) -> None:
    path = tmp_path / "x.pth"
    torch.save({f"{index}": content for index in range(50)}, path)
    with pytest.raises(UserError, match="larger than the file"):
        own_content(path, read_torch_archive(path))


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
    with pytest.raises(UserError, match=r"truncated|damaged|compressed"):
        read_torch_archive(path)


Entry = tuple[str, bytes]


def zipped(*entries: Entry, wide: bool = False, small: bool = False, shared: bool = False) -> bytes:
    """A zip archive written by hand.

    Args:
        wide: sizes and places are written in 64 bits, as beyond 4 GB, behind an extra field of another kind.
        small: of these the sizes are not, as those of a small entry in a large archive.
        shared: every entry of the directory points to the content of the first one.
    """
    body, directory = bytearray(), bytearray()
    for name, content in entries:
        crc, local = zlib.crc32(content), 0 if shared and body else len(body)
        head = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, crc, len(content), len(content), len(name), 0)
        if not (shared and body):
            body += b"PK\3\4" + head + name.encode() + content
        numbers = [local] if small else [len(content), len(content), local]
        extra = struct.pack(f"<HHIHH{len(numbers)}Q", 9, 4, 7, 1, 8 * len(numbers), *numbers) if wide else b""
        size, place = len(content) if small or not wide else 0xFFFFFFFF, 0xFFFFFFFF if wide else local
        directory += b"PK\1\2" + struct.pack(
            "<HHHHHHIIIHHH", 45, 45, 0, 0, 0, 0, crc, size, size, len(name), len(extra), 7
        )
        directory += struct.pack("<HHII", 0, 0, 0, place) + name.encode() + extra + b"comment"
    count, start, end = len(entries), len(body), len(body) + len(directory)
    tail = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), start, 0)
    if wide:
        record = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(directory), start)
        tail = b"PK\6\6" + record + b"PK\6\7" + struct.pack("<IQI", 0, end, 1)
        tail += b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return bytes(body + directory + tail)


# The content looks like the end of an archive, too.
ENTRIES = (("x/data.pkl", b"\x80\x02}."), ("x/data/0", b"PK\5\6" + bytes(range(100))), ("x/data/1", b"abc"))


@pytest.mark.parametrize(("wide", "small"), [(False, False), (True, False), (True, True)])
def test_every_entry_is_where_the_directory_says(wide: bool, small: bool) -> None:
    content = zipped(*ENTRIES, wide=wide, small=small)
    with zipfile.ZipFile(io.BytesIO(content)) as known:
        assert [(entry.filename, known.read(entry)) for entry in known.infolist()] == list(ENTRIES)
    found = read_directory(memoryview(content))
    assert [(name, content[entry.start : entry.stop]) for name, entry in found.items()] == list(ENTRIES)
    assert [entry.crc for entry in found.values()] == [zlib.crc32(each) for _, each in ENTRIES]


def test_entries_with_an_extra_field_before_their_bytes() -> None:
    """What torch.save and zipfile align by."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in ENTRIES:
            entry = zipfile.ZipInfo(name)
            entry.extra, entry.comment = struct.pack("<HHI", 0x4246, 4, 1), b"words"
            written.writestr(entry, content)
    whole = file.getvalue()
    found = read_directory(memoryview(whole))
    assert [(name, whole[entry.start : entry.stop]) for name, entry in found.items()] == list(ENTRIES)


def test_entries_one_over_the_other_and_names_twice() -> None:
    bomb = zipped(*((f"x/{number}", bytes(500)) for number in range(50)), shared=True)
    twice = zipped(ENTRIES[0], ENTRIES[0])
    for content in (bomb, twice):
        with pytest.raises(ValueError, match="entries of the archive overlap"):
            read_directory(memoryview(content))


def test_one_content_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for entries in ((ENTRIES[0], ("y/data.pkl", ENTRIES[0][1])), ENTRIES[1:]):
        path.write_bytes(zipped(*entries))
        with pytest.raises(UserError, match=r"has no data\.pkl"):
            read_torch_archive(path)


def test_a_changed_setting_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"epochs": 310}, path)
    assert read_torch_archive(path) == {"epochs": 310}
    path.write_bytes(path.read_bytes().replace(b"epochs", b"epocht"))
    with pytest.raises(UserError, match=r"the checksum of data\.pkl"):
        read_torch_archive(path)


def test_a_bit_that_changed_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.full((100,), 0.25)}, path)
    path.write_bytes(path.read_bytes().replace(b"\0\0\x80\x3e" * 100, b"\0\0\x80\x3e" * 99 + b"\0\0\x81\x3e"))
    with pytest.raises(UserError, match=r"is damaged: the checksum of data/0"):
        read_torch_archive(path)


def test_an_archive_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_torch_archive(tmp_path / "x.pth")["a"], torch.ones(3))


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
    with pytest.raises(UserError, match="truncated"):
        read_torch_archive(path)


def stream(
    *,
    keys: Any = ("0",),
    machine: Any = None,
    count: int = 16,
    shape: tuple[int, ...] = (4,),
    view: tuple[int, int] | None = (0, 16),
) -> bytes:
    """A file of torch before 1.6 with one tensor, of the elements 2 to 5 of its storage."""
    before = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True} if machine is None else machine)
    data = np.arange(16, dtype="<f4").tobytes()
    head = b"".join(pickle.dumps(value, protocol=2) for value in before)
    storages = (count.to_bytes(8, "little") + data) * len(keys)
    return head + rebuilt(2, shape, (1, 2)[: len(shape)], view=view) + pickle.dumps(list(keys), protocol=2) + storages


def test_a_stream_and_what_is_wrong_with_others(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(stream())
    assert read_torch_archive(path)["a"].tolist() == [2, 3, 4, 5]
    path.write_bytes(stream(shape=(2, 3), view=(3, 9)))  # a view begins where it says
    assert read_torch_archive(path)["a"].tolist() == [[5, 7, 9], [6, 8, 10]]
    for content, told in (
        (stream(machine={"little_endian": False}), "is written on a big-endian machine"),
        (stream(machine={}), "is written on a big-endian machine"),
        (stream(keys=("1",)), "damaged"),
        (stream(count=17), "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=told):
            read_torch_archive(path)


def test_a_stream_of_another_program(tmp_path: Path) -> None:
    stream: Any = io.BytesIO()
    for value in (1, 2, 3):
        pickle.dump(value, stream, protocol=2)
    (tmp_path / "x.pth").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="does not begin like a file of torch"):
        read_torch_archive(tmp_path / "x.pth")
