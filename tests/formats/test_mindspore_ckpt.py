"""MindSpore's `.ckpt` against files that the real MindSpore wrote, and against hostile ones."""

import resource
import zlib
from pathlib import Path

import numpy as np
import pytest

from t2t_vit.errors import UserError
from t2t_vit.formats.mindspore_ckpt import Value, read_checkpoint, write_checkpoint
from t2t_vit.formats.protobuf import Reader, bytes_field, bytes_head, number_field, read_varint, varint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mindspore"
SHAPES = {"cls_token": (1, 1, 8), "norm.gamma": (8,), "norm.beta": (8,), "head.weight": (3, 8), "head.bias": (3,)}


def array(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The ramp of make.py."""
    return ((np.arange(np.prod(shape, dtype=int)) + seed) % 64 / 8 - 4).astype(np.float32).reshape(shape)


@pytest.mark.parametrize("name", ["plain", "crc"])
def test_what_mindspore_wrote_is_read_and_written_the_same(tmp_path: Path, name: str) -> None:
    values = read_checkpoint(FIXTURES / f"{name}.ckpt")
    assert {key: value.shape for key, value in values.items()} == SHAPES
    for seed, (key, shape) in enumerate(SHAPES.items()):
        assert values[key].type == "Float32"
        assert np.array_equal(values[key].data, array(shape, seed))
    write_checkpoint(tmp_path / "again.ckpt", values.items(), crc_check=name == "crc")
    assert (tmp_path / "again.ckpt").read_bytes() == (FIXTURES / f"{name}.ckpt").read_bytes()


@pytest.mark.parametrize("name", ["types", "scalar", "adam", "bfloat16"])
def test_every_type_scalars_texts_and_state_come_back_as_the_same_bytes(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / "again.ckpt", read_checkpoint(FIXTURES / f"{name}.ckpt").items())
    assert (tmp_path / "again.ckpt").read_bytes() == (FIXTURES / f"{name}.ckpt").read_bytes()


def test_values_of_every_type() -> None:
    values = read_checkpoint(FIXTURES / "types.ckpt")
    assert len(values) == 11
    for name, value in values.items():
        assert value.data.dtype == np.dtype(name)
        assert np.array_equal(value.data, np.arange(4).reshape(2, 2).astype(name))
    scalar = read_checkpoint(FIXTURES / "scalar.ckpt")
    assert scalar["a"].shape == () and scalar["a"].data == 2.5
    assert scalar["text"] == Value("str", "täxt")


def test_bfloat16_as_its_bits() -> None:
    value = read_checkpoint(FIXTURES / "bfloat16.ckpt")["head.weight"]
    assert value.type == "BFloat16" and value.data.dtype == np.uint16
    assert np.array_equal((value.data.astype(np.uint32) << 16).view(np.float32), array((3, 8), 3))


def test_slices_are_joined_and_written(tmp_path: Path) -> None:
    values = read_checkpoint(FIXTURES / "sliced.ckpt")
    assert np.array_equal(values["before"].data, array((2, 3), 1))
    assert np.array_equal(values["long"].data, array((5, 4), 2))
    write_checkpoint(tmp_path / "again.ckpt", values.items(), slice_bytes=32)
    assert (tmp_path / "again.ckpt").read_bytes() == (FIXTURES / "sliced.ckpt").read_bytes()


@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC", "SM4-CBC"])
def test_encrypted_files_are_refused_with_the_reason(mode: str) -> None:
    with pytest.raises(UserError, match=rf"is encrypted \({mode}\); decrypt it with MindSpore \(dec_key\) first$"):
        read_checkpoint(FIXTURES / f"encrypted_{mode}.ckpt")


def tensor(dims: list[int], content: bytes, kind: str = "Float32") -> bytes:
    return b"".join(number_field(1, dim) for dim in dims) + bytes_field(2, kind.encode()) + bytes_field(3, content)


def value(name: str, inner: bytes) -> bytes:
    return bytes_field(1, bytes_field(1, name.encode()) + bytes_field(2, inner))


WHOLE = value("a", tensor([2], b"\0" * 8))
HOSTILE = {
    "cut short": (WHOLE[:-1], "damaged or truncated"),
    "ten gigabytes claimed": (bytes_head(1, 10**10) + WHOLE, "damaged or truncated"),
    "ten gigabytes claimed inside": (value("a", bytes_head(3, 10**10)), "damaged or truncated"),
    "a shape of ten billion": (value("a", tensor([10**10], b"\0" * 8)), "'a' has 8 bytes"),
    "a shape beyond 64 bits": (value("a", tensor([2**63] * 8, b"\0" * 8)), "'a' has 8 bytes"),
    "a negative side": (value("a", tensor([2**64 - 2], b"\0" * 8)), "'a' has 8 bytes"),
    "a thousand sides": (value("a", tensor([1] * 1000, b"\0" * 4)), "more than 16 dimensions"),
    "packed sides without end": (value("a", bytes_field(1, b"\1" * 999) + tensor([], b"")), "more than 16 numbers"),
    "an unknown type": (value("a", tensor([2], b"\0" * 8, "Float7")), "as Float7"),
    "four bits": (value("a", tensor([2], b"\0", "Int4")), "as Int4"),
    "no type": (value("a", bytes_field(3, b"\0" * 4)), "as nothing"),
    "no name": (bytes_field(1, bytes_field(2, tensor([1], b"\0" * 4))), "no name or no tensor"),
    "no tensor": (bytes_field(1, bytes_field(1, b"a")), "no name or no tensor"),
    "a map": (bytes_field(1, bytes_field(1, b"a") + bytes_field(3, b"")), "MapParameter"),
    "a name that is not text": (bytes_field(1, bytes_field(1, b"\xff\xfe") + bytes_field(2, b"")), "damaged"),
    "a name with a line break": (value("a\nb", tensor([1], b"\0" * 4)), "the name at byte"),
    "an endless name": (value("a" * 5000, tensor([1], b"\0" * 4)), "the field at byte .* is not text"),
    "names without end": (
        WHOLE + bytes_field(1, bytes_field(1, b"a" * 4000) * 5000),
        "is not text",
    ),
    "fields without end": (WHOLE + b"\x10\0" * 200_001, "more than 200,000 fields"),
    "fields without end in a value": (WHOLE + bytes_field(1, b"\x20\0" * 200_001), "more than 200,000 fields"),
    "a text that is none": (value("a", tensor([0], b"\xff" * 7, "str")), "damaged"),
    "an endless text": (value("a", tensor([0], b"a\0\0\0" * 300_000, "str")), "the text 'a' has 1,200,000 bytes"),
    "a number without end": (b"\x0a" + b"\xff" * 30, "damaged or truncated"),
    "a group": (b"\x0b" + WHOLE, "no field type 3"),
    "nothing": (number_field(2, 5), "holds nothing"),
    "a wrong checksum": (WHOLE + b"crc_num" + (zlib.crc32(WHOLE) ^ 1).to_bytes(10, "big"), "checksum"),
    "half a trailer": (WHOLE + b"crc_num" + b"\0" * 5, "damaged"),
    "a slice too many": (WHOLE + WHOLE, "'a' has 16 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_one_sentence(tmp_path: Path, case: str) -> None:
    content, expected = HOSTILE[case]
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 400


def test_a_name_that_comes_again_replaces_the_first(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(WHOLE + value("b", tensor([], b"\0" * 4)) + value("a", tensor([1], b"\0\0\x80\x3f")))
    assert read_checkpoint(path)["a"].data == np.ones(1, np.float32)


def ramp(count: int, first: int = 1, kind: str = "<f4") -> bytes:
    return np.arange(first, first + count).astype(kind).tobytes()


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        # Only what follows at once, with the same shape and type, is another slice of the tensor.
        ([("a", [4], ramp(2)), ("a", [4], ramp(2, 3))], np.arange(1, 5, dtype="f4")),
        ([("a", [2], ramp(2)), ("b", [2], ramp(2)), ("a", [2], ramp(2, 7))], np.array([7, 8], "f4")),
        ([("a", [2], ramp(2)), ("a", [3], ramp(3, 7))], np.array([7, 8, 9], "f4")),
        ([("a", [2], ramp(2)), ("a", [2], ramp(2, 7, "<i4"), "Int32")], np.array([7, 8], "i4")),
    ],
)
def test_slices_and_names_that_come_again(
    tmp_path: Path, entries: list[tuple[str, list[int], bytes]], expected: np.ndarray
) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"".join(value(name, tensor(*rest)) for name, *rest in entries))
    found = read_checkpoint(tmp_path / "x.ckpt")["a"].data
    assert isinstance(found, np.ndarray) and found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_scalars_without_dims_and_with_the_single_one_0(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(value("a", tensor([], ramp(1, 5))) + value("b", tensor([0], ramp(1, 6))))
    found = read_checkpoint(path)
    assert {name: (one.shape, float(one.data)) for name, one in found.items()} == {"a": ((), 5.0), "b": ((), 6.0)}


def test_values_at_both_ends_of_their_types(tmp_path: Path) -> None:
    kinds = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
    limits = {kind: np.iinfo(kind.lower()) for kind in kinds}
    numbers = {kind: np.array([each.min, each.max], each.dtype) for kind, each in limits.items()}
    content = b"".join(value(kind, tensor([2], one.tobytes(), kind)) for kind, one in numbers.items())
    (tmp_path / "x.ckpt").write_bytes(content)
    for name, one in read_checkpoint(tmp_path / "x.ckpt").items():
        assert one.data.dtype == numbers[name].dtype
        np.testing.assert_array_equal(one.data, numbers[name])


def test_what_is_written_lies_row_by_row_whatever_the_array_in_memory(tmp_path: Path) -> None:
    turned = np.arange(6, dtype=np.float32).reshape(3, 2).T
    write_checkpoint(tmp_path / "x.ckpt", [("a", Value("Float32", turned))])
    assert (tmp_path / "x.ckpt").read_bytes().endswith(np.array([0, 2, 4, 1, 3, 5], "<f4").tobytes())
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "x.ckpt")["a"].data, turned)


def test_empty_tensors_are_left_out_as_in_mindspore(tmp_path: Path) -> None:
    values = [("a", Value("Float32", np.zeros((0, 3), np.float32))), ("b", Value("Float32", np.ones(2, np.float32)))]
    write_checkpoint(tmp_path / "x.ckpt", values)
    assert list(read_checkpoint(tmp_path / "x.ckpt")) == ["b"]


def test_nothing_but_tiny_entries_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"\x0a\x05\x0a\x01a\x12\x00" * 3_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="more than 20,000 entries"):
        read_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (64 + 2 * 20) * 1024


def test_numbers_in_base_128() -> None:
    found = {number: varint(number) for number in (0, 127, 128, 300, 2**64 - 1)}
    assert found == {0: b"\0", 127: b"\x7f", 128: b"\x80\x01", 300: b"\xac\x02", 2**64 - 1: b"\xff" * 9 + b"\x01"}
    assert all(read_varint(memoryview(b"xx" + it), 2, 2 + len(it)) == (n, 2 + len(it)) for n, it in found.items())


def test_a_number_ends_where_its_message_does() -> None:
    with pytest.raises(ValueError, match="a number at byte 0 has no end"):
        read_varint(memoryview(b"\xac\x02"), 0, 1)
    inner = bytes_field(1, b"\x08\xac")  # the number of the inner field would be read on outside
    reader = Reader(memoryview(inner + b"\x02"))
    (outer,) = reader.fields(0, len(inner))
    with pytest.raises(ValueError, match="has no end"):
        list(reader.fields(outer.start, outer.stop))


def test_fields_of_every_kind_and_what_is_none() -> None:
    message = b"\x0d" + b"\1" * 4 + b"\x11" + b"\2" * 8 + b"\x1a\x03abc" + b"\x20\x07"
    fields = [
        (one.number, one.wire, one.value, one.start, one.stop) for one in Reader(memoryview(message)).fields(0, 21)
    ]
    assert fields == [(1, 5, 0, 1, 5), (2, 1, 0, 6, 14), (3, 2, 0, 16, 19), (4, 0, 7, 20, 21)]
    for damaged in (b"\x02\x01a", b"\x0d\1\1\1", b"\x11" + b"\2" * 7):  # field 0, and two that are cut short
        with pytest.raises(ValueError, match="reaches past the end"):
            list(Reader(memoryview(damaged)).fields(0, len(damaged)))
