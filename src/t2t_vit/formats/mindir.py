"""MINDIR, MindSpore's graph format, written and read without MindSpore and without protobuf.

    message ModelProto { string ir_version = 1; string producer_name = 2; string model_version = 5;
        GraphProto graph = 7; bool little_endian = 10; repeated PrimitiveProto primitives = 12;
        int64 mind_ir_version = 13; map<string, string> user_info = 14; }
    message GraphProto { repeated NodeProto node = 1; string name = 2; repeated TensorProto parameter = 3;
        repeated ValueInfoProto input = 5; repeated ValueInfoProto output = 6; }
    message NodeProto { repeated string input = 1; repeated string output = 2; string name = 3; string op_type = 4;
        repeated AttributeProto attribute = 5; string domain = 7; }
    message PrimitiveProto { string name = 1; string op_type = 2; repeated AttributeProto attribute = 3;
        string instance_name = 4; PrimType prim_type = 5; }
    message TensorProto { repeated int64 dims = 1; int32 data_type = 2; string name = 7; bytes raw_data = 9;
        string ref_key = 13; }

A node refers to its primitive ("REF::Add:7") or is a "Constant". Found by experiment with MindSpore 2.7 to 2.10; the
loader validates little, so a file is worth nothing before MindSpore has run it.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2t_vit.formats.protobuf import (
    BYTES,
    FIXED32,
    VARINT,
    Field,
    Reader,
    bytes_field,
    bytes_head,
    number_field,
    varint,
)

# A setting of a primitive, or the value of a constant.
Setting = bool | int | float | str | tuple[int, ...] | None
Message = list["bytes | memoryview"]  # in pieces, so that weights are copied once only

DATA_TYPES = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "float16": 10}
FLOAT, INT64, STRING, BOOL, TENSORS, TUPLE, NONE = 1, 7, 8, 9, 19, 20, 25
# Primitives that keep their settings as attributes; all others take them as further inputs.
WITH_ATTRIBUTES = frozenset({"Conv2D", "Im2Col", "MakeTuple", "TupleGetItem"})
DYNAMIC = -1

_MORE_GRAPHS = (8, 9)  # of ModelProto: functions and preprocessor
# 2.10 writes 1.1, at which older ones warn.
_IR_VERSION, _MIND_IR_VERSION = "1.0", 3
_NAME = "main"

_TYPE_NAMES = {number: name for name, number in DATA_TYPES.items()}
_LONGEST_TEXT = 2**20
_MOST_DIMS = 16


@dataclass
class GraphWriter:
    """A graph under construction: every method adds something and gives the name to refer to it by."""

    _nodes: list[bytes] = field(default_factory=list)
    _parameters: Message = field(default_factory=list)
    _inputs: list[bytes] = field(default_factory=list)
    _outputs: list[bytes] = field(default_factory=list)
    _primitives: dict[tuple[str, tuple[tuple[str, Setting], ...]], tuple[str, bytes]] = field(default_factory=dict)
    _constants: dict[tuple[str, Setting], str] = field(default_factory=dict)
    _count: int = 0

    def input(self, name: str, shape: Sequence[int], data_type: str) -> str:
        """An input of the graph; a side of `DYNAMIC` may have any length."""
        self._inputs.append(_value_info(f"{_NAME}:{name}", shape, data_type))
        return f"{_NAME}:{name}"

    def output(self, name: str, shape: Sequence[int], data_type: str) -> None:
        """Make a value that is already there the answer of the graph."""
        self._outputs.append(_value_info(name, shape, data_type))

    def parameter(self, name: str, values: NDArray[Any]) -> str:
        """A weight, which MindSpore knows as `name`."""
        tensor = _tensor_head(f"{_NAME}:{name}", values.shape, values.dtype.name) + _text(13, name)
        content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        head = tensor + bytes_head(9, len(content))
        self._parameters += (bytes_head(3, len(head) + len(content)) + head, content.data)
        return f"{_NAME}:{name}"

    def constant(self, value: Setting) -> str:
        """A number, text, tuple of integers or nothing; the same value is written once."""
        key = (type(value).__name__, value)
        if key not in self._constants:
            self._constants[key] = self._add("Constant", (), bytes_field(5, attribute("value", value)))
        return self._constants[key]

    def tensor(self, values: NDArray[Any]) -> str:
        """A constant tensor, which is no parameter."""
        raw = np.ascontiguousarray(values).tobytes()
        tensor = _tensor_head("value", values.shape, values.dtype.name) + bytes_field(9, raw)
        content = _text(1, "value") + bytes_field(12, tensor) + number_field(16, TENSORS)
        return self._add("Constant", (), bytes_field(5, content))

    def node(self, operator: str, inputs: Sequence[str], settings: Mapping[str, Setting] | None = None) -> str:
        """The primitive `operator` applied to values; `settings` are its attributes, if it has any."""
        key = (operator, tuple((settings or {}).items()))
        if key not in self._primitives:
            reference = f"{operator}:{len(self._primitives)}"
            attributes = b"".join(bytes_field(3, attribute(name, value)) for name, value in key[1])
            kind = number_field(5, 1 if operator in WITH_ATTRIBUTES else 2)
            self._primitives[key] = reference, _text(1, reference) + _text(2, operator) + attributes + kind
        return self._add(f"REF::{self._primitives[key][0]}", inputs, b"")

    def to_bytes(self, user_info: Mapping[str, str], producer: str, version: str) -> bytes:
        """The content of the file; `user_info` is free text that MindSpore skips."""
        graph: Message = [bytes_field(1, node) for node in self._nodes]
        graph += [_text(2, _NAME), *self._parameters]
        graph += [bytes_field(5, one) for one in self._inputs] + [bytes_field(6, one) for one in self._outputs]
        model: Message = [_text(1, _IR_VERSION), _text(2, producer), _text(5, version)]
        model += [bytes_head(7, sum(len(piece) for piece in graph)), *graph, number_field(10, 1)]
        model += [bytes_field(12, primitive) for _, primitive in self._primitives.values()]
        model.append(number_field(13, _MIND_IR_VERSION))
        model += [bytes_field(14, _text(1, key) + _text(2, value)) for key, value in user_info.items()]
        return b"".join(model)

    def _add(self, op_type: str, inputs: Iterable[str], attributes: bytes) -> str:
        self._count += 1
        name = f"{_NAME}:{op_type.removeprefix('REF::').partition(':')[0]}_{self._count}"
        arguments = b"".join(_text(1, one) for one in inputs)
        self._nodes.append(arguments + _text(2, name) + _text(3, name) + _text(4, op_type) + attributes)
        return name


def attribute(name: str, value: Setting) -> bytes:
    """An AttributeProto { name = 1; f = 2; i = 3; s = 5; ints = 10; type = 16; values = 17 }.

    An integer alone stands in `i`, within a tuple in `ints`: else MindSpore cannot parse it.
    """
    head = _text(1, name)
    if value is None:
        return head + number_field(16, NONE)
    if isinstance(value, bool):
        return head + number_field(3, int(value)) + number_field(16, BOOL)
    if isinstance(value, int):
        return head + _signed(3, value) + number_field(16, INT64)
    if isinstance(value, float):
        return head + varint(2 << 3 | FIXED32) + struct.pack("<f", value) + number_field(16, FLOAT)
    if isinstance(value, str):
        return head + _text(5, value) + number_field(16, STRING)
    members = b"".join(bytes_field(17, _signed(10, one) + number_field(16, INT64)) for one in value)
    return head + number_field(16, TUPLE) + members


def _value_info(name: str, shape: Sequence[int], data_type: str) -> bytes:
    return _text(1, name) + bytes_field(2, _tensor_head(name, shape, data_type))


def _tensor_head(name: str, shape: Sequence[int], data_type: str) -> bytes:
    dims = b"".join(_signed(1, side) for side in shape)
    return dims + number_field(2, DATA_TYPES[data_type]) + _text(7, name)


def _signed(number: int, value: int) -> bytes:
    return number_field(number, value & 0xFFFF_FFFF_FFFF_FFFF)


def _text(number: int, text: str) -> bytes:
    return bytes_field(number, text.encode("utf-8"))


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, shape (-1: any length) and NumPy type; `values` of a weight are a view of the file."""

    name: str
    shape: tuple[int, ...]
    data_type: str
    values: NDArray[Any] | None = None


@dataclass(frozen=True)
class Node:
    """One step of the graph: `operator` is the primitive's name, or "Constant"."""

    operator: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Mindir:
    """What `read_mindir` finds; names are without the graph's name before them."""

    producer: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    parameters: dict[str, TensorInfo]
    nodes: tuple[Node, ...]
    user_info: dict[str, str]


def read_mindir(content: bytes) -> Mindir:
    """Decode a whole file; weights are views of `content`.

    Raises:
        ValueError: it is damaged, cut short, or no MINDIR of this kind.
    """
    reader = Reader(memoryview(content))
    model = list(reader.fields(0, len(content)))
    graphs = [one for one in model if one.number == 7]
    if len(graphs) != 1:
        raise ValueError("it has no graph")
    if any(one.number in _MORE_GRAPHS for one in model):
        raise ValueError("it holds more graphs than one, which a loop or a branch needs")
    graph = list(_inside(reader, graphs[0]))
    primitives = dict(_read_two_texts(reader, one) for one in model if one.number == 12)
    tensors = [_read_tensor(reader, one) for one in graph if one.number == 3]
    return Mindir(
        producer=" ".join(_read_text(reader, one) for one in model if one.number in (2, 5)),
        inputs=tuple(_read_value_info(reader, one) for one in graph if one.number == 5),
        outputs=tuple(_read_value_info(reader, one) for one in graph if one.number == 6),
        parameters={one.name: one for one in tensors},
        nodes=tuple(_read_node(reader, one, primitives) for one in graph if one.number == 1),
        user_info=dict(_read_two_texts(reader, one) for one in model if one.number == 14),
    )


def _inside(reader: Reader, message: Field) -> Iterator[Field]:
    if message.wire != BYTES:
        raise ValueError(f"the field at byte {message.start} is not a message")
    return reader.fields(message.start, message.stop)


def _read_text(reader: Reader, field: Field) -> str:
    return reader.text(field, _LONGEST_TEXT)


def _read_two_texts(reader: Reader, message: Field) -> tuple[str, str]:
    """The first two fields of a message: a primitive's name and operator, or a key and its value."""
    texts = {one.number: _read_text(reader, one) for one in _inside(reader, message) if one.number in (1, 2)}
    return texts.get(1, ""), texts.get(2, "")


def _read_node(reader: Reader, message: Field, primitives: dict[str, str]) -> Node:
    inputs, output, operator = [], "", ""
    for one in _inside(reader, message):
        if one.number == 1:
            inputs.append(_read_text(reader, one))
        elif one.number == 2:
            output = _read_text(reader, one)
        elif one.number == 4:
            operator = _read_text(reader, one)
    if operator != "Constant":
        reference = operator.removeprefix("REF::")
        if reference not in primitives:
            raise ValueError(f"the node {output} refers to a primitive '{reference}' that is not there")
        operator = primitives[reference]
    return Node(operator, tuple(inputs), output)


def _read_value_info(reader: Reader, message: Field) -> TensorInfo:
    tensors = [_read_tensor(reader, one) for one in _inside(reader, message) if one.number == 2]
    if len(tensors) != 1:
        raise ValueError(f"the input or output at byte {message.start} is not a tensor")
    return tensors[0]


def _read_tensor(reader: Reader, message: Field) -> TensorInfo:
    shape, name, data_type, raw = list[int](), "", "", None
    for one in _inside(reader, message):
        if one.number == 1:
            shape += map(_as_signed, reader.numbers(one, _MOST_DIMS))
            if len(shape) > _MOST_DIMS:
                raise ValueError(f"the tensor at byte {message.start} has more than {_MOST_DIMS} dimensions")
        elif one.number == 2 and one.wire == VARINT:
            data_type = _TYPE_NAMES.get(one.value, "")
        elif one.number == 7:
            name = _read_text(reader, one).partition(":")[2]
        elif one.number == 9 and one.wire == BYTES:
            raw = reader.data[one.start : one.stop]
    if not data_type:
        raise ValueError(f"the tensor '{name}' is of an unknown type")
    values = None if raw is None else _read_values(name, raw, tuple(shape), data_type)
    return TensorInfo(name, tuple(shape), data_type, values)


def _as_signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _read_values(name: str, raw: memoryview, shape: tuple[int, ...], data_type: str) -> NDArray[Any]:
    flat = np.frombuffer(raw, np.dtype(data_type).newbyteorder("<"))
    if min(shape, default=1) < 0 or int(np.prod(shape, dtype=object)) != flat.size:
        raise ValueError(f"'{name}' has {flat.size} values, not those of its shape {shape}")
    return flat.reshape(shape)
