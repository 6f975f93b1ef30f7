"""MindSpore's `.ckpt`: named tensors as a protobuf, read and written without MindSpore and without protobuf.

    message Checkpoint { repeated Value value = 1; }
    message Value { required string tag = 1; optional TensorProto tensor = 2; optional MapTensorProto maptensor = 3; }
    message TensorProto { repeated int64 dims = 1; required string tensor_type = 2; required bytes tensor_content = 3; }

A tensor of more than 512 MiB is spread over several Values of the same tag, each with the full dims. Scalars have no
dims, or the single one 0; text is UTF-32 with the dims [0]. With `crc_check` the bytes `crc_num` follow, and the
CRC-32 of everything before them in ten bytes, big-endian. Found by experiment with MindSpore 2.10.0.
"""

import math
import mmap
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write, open_regular
from t2t_vit.formats.protobuf import VARINT, Field, Reader, bytes_field, bytes_head, number_field

# NumPy has no bfloat16: its bytes are kept as uint16.
TYPES: Mapping[str, str] = {
    "Float32": "<f4",
    "Float16": "<f2",
    "Float64": "<f8",
    "BFloat16": "<u2",
    "Int8": "i1",
    "Int16": "<i2",
    "Int32": "<i4",
    "Int64": "<i8",
    "UInt8": "u1",
    "UInt16": "<u2",
    "UInt32": "<u4",
    "UInt64": "<u8",
    "Bool": "?",
}
SLICE_BYTES = 512 * 2**20
# Little-endian 0x7F3A5ED8, ..D9 and ..DA.
ENCRYPTION = {b"\xd8\x5e\x3a\x7f": "AES-GCM", b"\xd9\x5e\x3a\x7f": "AES-CBC", b"\xda\x5e\x3a\x7f": "SM4-CBC"}

_TEXT = "str"
_TRAILER = b"crc_num"
_TRAILER_BYTES = len(_TRAILER) + 10
# Far above what any network has; they bound what a file of nothing but tiny entries can cost.
_MOST_VALUES = 20_000
_MOST_DIMS = 16
_LONGEST_NAME = 4096
_LONGEST_TYPE = 32
_LONGEST_TEXT = 2**20


@dataclass(frozen=True)
class Value:
    """A tensor by its MindSpore type name, or a text ("str"); bfloat16 is given as its bits in uint16."""

    type: str
    data: "NDArray[Any] | str"

    @property
    def shape(self) -> tuple[int, ...]:
        return () if isinstance(self.data, str) else self.data.shape


@dataclass
class _Entry:
    """A tensor or text in the file: the bytes of its slices."""

    type: str
    dims: tuple[int, ...]
    spans: list[tuple[int, int]]


def read_checkpoint(path: str | Path) -> dict[str, Value]:
    """All values by name, in the order of the file; memory beside them is a view of the file.

    A name that comes again replaces the one before, as in MindSpore.

    Raises:
        UserError: the file is encrypted, damaged, or holds what no array is (a MapParameter, a 4-bit tensor).
    """
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:4] in ENCRYPTION:
                raise ValueError(f"is encrypted ({ENCRYPTION[content[:4]]}); decrypt it with MindSpore (dec_key) first")
            with memoryview(content) as data:
                return _read(data)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this MindSpore checkpoint {error}") from error


def _read(data: memoryview) -> dict[str, Value]:
    stop = _checked_end(data)
    try:
        return {name: _value(data, name, entry) for name, entry in _entries(Reader(data), stop).items()}
    except UnicodeDecodeError as error:
        raise ValueError(f"is damaged: {error.reason}") from error


def _checked_end(data: memoryview) -> int:
    """Where the messages end: before the checksum, which has to be right, if there is one."""
    stop = len(data) - _TRAILER_BYTES
    if stop < 0 or data[stop : stop + len(_TRAILER)] != _TRAILER:
        return len(data)
    if zlib.crc32(data[:stop]) != int.from_bytes(data[stop + len(_TRAILER) :], "big"):
        raise ValueError("is damaged: its checksum is not that of its content")
    return stop


def _entries(reader: Reader, stop: int) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    last = ""
    for count, field in enumerate(_messages(reader, 0, stop)):
        if count >= _MOST_VALUES:
            raise ValueError(f"has more than {_MOST_VALUES:,} entries, more than any network has")
        name, entry = _entry(reader, *field)
        if name == last and entries[name].dims == entry.dims and entries[name].type == entry.type:
            entries[name].spans += entry.spans
        else:
            entries[name] = entry
        last = name
    if not entries:
        raise ValueError("holds nothing")
    return entries


def _messages(reader: Reader, start: int, stop: int) -> Iterable[tuple[int, int]]:
    """Spans of the Values."""
    for field in _fields(reader, start, stop):
        if field.number == 1 and field.wire != VARINT:
            yield field.start, field.stop


def _fields(reader: Reader, start: int, stop: int) -> Iterable[Field]:
    try:
        yield from reader.fields(start, stop)
    except ValueError as error:
        raise ValueError(f"is damaged or truncated: {error}") from error


def _entry(reader: Reader, start: int, stop: int) -> tuple[str, _Entry]:
    name, entry, is_map = "", None, False
    for field in _fields(reader, start, stop):
        if field.number == 1:
            name = _text(reader, field, _LONGEST_NAME)
        elif field.number == 2:
            entry = _tensor(reader, field.start, field.stop)
        is_map |= field.number == 3
    if is_map:
        raise ValueError(f"holds a MapParameter ('{name}'), which is not a tensor; save the network without it")
    if not name or entry is None:
        raise ValueError(f"is damaged: the entry at byte {start} has no name or no tensor")
    return name, entry


def _tensor(reader: Reader, start: int, stop: int) -> _Entry:
    dims: list[int] = []
    kind, content = "", (start, start)
    for field in _fields(reader, start, stop):
        if field.number == 1:
            dims += _dims(reader, field)
        elif field.number == 2:
            kind = _text(reader, field, _LONGEST_TYPE)
        elif field.number == 3:
            content = (field.start, field.stop)
        if len(dims) > _MOST_DIMS:
            raise ValueError(f"is damaged: a tensor at byte {start} has more than {_MOST_DIMS} dimensions")
    return _Entry(kind, tuple(dims), [content])


def _dims(reader: Reader, field: Field) -> Iterable[int]:
    try:
        return reader.numbers(field, _MOST_DIMS)
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from error


def _text(reader: Reader, field: Field, longest: int) -> str:
    try:
        text = reader.text(field, longest)
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from error
    if not text.isprintable():
        raise ValueError(f"is damaged: the name at byte {field.start} is not text")
    return text


def _value(data: memoryview, name: str, entry: _Entry) -> Value:
    length = sum(stop - start for start, stop in entry.spans)
    if entry.type == _TEXT:
        if length > _LONGEST_TEXT:
            raise ValueError(f"is damaged: the text '{name}' has {length:,} bytes")
        return Value(_TEXT, b"".join(bytes(data[start:stop]) for start, stop in entry.spans).decode("utf-32-le"))
    if entry.type not in TYPES:
        raise ValueError(f"holds '{name[:80]}' as {entry.type or 'nothing'}, which has no counterpart here")
    itemsize = np.dtype(TYPES[entry.type]).itemsize
    shape = () if entry.dims == (0,) and length == itemsize else entry.dims
    if math.prod(shape) * itemsize != length:
        raise ValueError(f"is damaged: '{name[:80]}' has {length:,} bytes, which {_shown(shape)} {entry.type} has not")
    joined = np.empty(length, np.uint8)
    at = 0
    for start, stop in entry.spans:
        joined[at : at + stop - start] = np.frombuffer(data[start:stop], np.uint8)
        at += stop - start
    return Value(entry.type, joined.view(TYPES[entry.type]).reshape(shape))


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single"


def write_checkpoint(
    path: Path, values: Iterable[tuple[str, Value]], *, crc_check: bool = False, slice_bytes: int = SLICE_BYTES
) -> None:
    """Write `values` as `mindspore.save_checkpoint` does, byte for byte; tensors without elements are left out, too.

    Raises:
        UserError: the file cannot be written.
    """
    checksum = 0
    with atomic_write(Path(path)) as file:
        for name, value in values:
            for piece in _pieces(name, value, slice_bytes):
                checksum = zlib.crc32(piece, checksum)
                file.write(piece)
        if crc_check:
            file.write(_TRAILER + checksum.to_bytes(10, "big"))


def _pieces(name: str, value: Value, slice_bytes: int) -> "Iterable[bytes | memoryview]":
    """The Values of one tensor: head and content by turns, so that the content is not copied."""
    if isinstance(value.data, str):
        dims, content = number_field(1, 0), np.frombuffer(value.data.encode("utf-32-le"), np.uint8)
    else:
        dims = b"".join(number_field(1, size) for size in value.shape)
        content = np.ascontiguousarray(value.data, TYPES[value.type]).reshape(-1).view(np.uint8)
    tag, about = bytes_field(1, name.encode("utf-8")), dims + bytes_field(2, value.type.encode("ascii"))
    for start in range(0, len(content), slice_bytes):
        part = content[start : start + slice_bytes]
        tensor = about + bytes_head(3, len(part))
        inner = tag + bytes_head(2, len(tensor) + len(part)) + tensor
        yield bytes_head(1, len(inner) + len(part)) + inner
        yield part.data
