"""A MINDIR's content, without MindSpore: what it takes and gives, its weights and primitives, and its free text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2t_vit.formats.mindir import DATA_TYPES
from t2t_vit.formats.protobuf import BYTES, VARINT, Field, read_fields, read_varint

_NAMES = {number: name for name, number in DATA_TYPES.items()}
_LONGEST_TEXT = 2**20


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
    data = memoryview(content)
    model = list(read_fields(data, 0, len(data)))
    graphs = [one for one in model if one.number == 7]
    if len(graphs) != 1:
        raise ValueError("it has no graph")
    graph = list(_inside(data, graphs[0]))
    primitives = dict(_two_texts(data, one) for one in model if one.number == 12)
    tensors = [_tensor(data, one) for one in graph if one.number == 3]
    return Mindir(
        producer=" ".join(_text(data, one) for one in model if one.number in (2, 5)),
        inputs=tuple(_value_info(data, one) for one in graph if one.number == 5),
        outputs=tuple(_value_info(data, one) for one in graph if one.number == 6),
        parameters={one.name: one for one in tensors},
        nodes=tuple(_node(data, one, primitives) for one in graph if one.number == 1),
        user_info=dict(_two_texts(data, one) for one in model if one.number == 14),
    )


def _inside(data: memoryview, message: Field) -> Iterator[Field]:
    if message.wire != BYTES:
        raise ValueError(f"the field at byte {message.start} is no message")
    return read_fields(data, message.start, message.stop)


def _text(data: memoryview, field: Field) -> str:
    if field.wire != BYTES or field.stop - field.start > _LONGEST_TEXT:
        raise ValueError(f"the field at byte {field.start} is no text")
    return bytes(data[field.start : field.stop]).decode("utf-8")


def _two_texts(data: memoryview, message: Field) -> tuple[str, str]:
    """The first two fields of a message: a primitive's name and operator, or a key and its value."""
    texts = {one.number: _text(data, one) for one in _inside(data, message) if one.number in (1, 2)}
    return texts.get(1, ""), texts.get(2, "")


def _node(data: memoryview, message: Field, primitives: dict[str, str]) -> Node:
    inputs, output, operator = [], "", ""
    for one in _inside(data, message):
        if one.number == 1:
            inputs.append(_text(data, one))
        elif one.number == 2:
            output = _text(data, one)
        elif one.number == 4:
            operator = _text(data, one)
    if operator != "Constant":
        reference = operator.removeprefix("REF::")
        if reference not in primitives:
            raise ValueError(f"the node {output} refers to a primitive '{reference}' that is not there")
        operator = primitives[reference]
    return Node(operator, tuple(inputs), output)


def _value_info(data: memoryview, message: Field) -> TensorInfo:
    tensors = [_tensor(data, one) for one in _inside(data, message) if one.number == 2]
    if len(tensors) != 1:
        raise ValueError(f"the input or output at byte {message.start} is no tensor")
    return tensors[0]


def _tensor(data: memoryview, message: Field) -> TensorInfo:
    shape, name, data_type, raw = list[int](), "", "", None
    for one in _inside(data, message):
        if one.number == 1:
            shape += _sides(data, one)
        elif one.number == 2 and one.wire == VARINT:
            data_type = _NAMES.get(one.value, "")
        elif one.number == 7:
            name = _text(data, one).partition(":")[2]
        elif one.number == 9 and one.wire == BYTES:
            raw = data[one.start : one.stop]
    if not data_type:
        raise ValueError(f"the tensor '{name}' is of an unknown type")
    values = None if raw is None else _values(name, raw, tuple(shape), data_type)
    return TensorInfo(name, tuple(shape), data_type, values)


def _sides(data: memoryview, field: Field) -> list[int]:
    """One length or several packed ones, as signed numbers."""
    if field.wire == VARINT:
        return [_signed(field.value)]
    sides, at = list[int](), field.start
    while at < field.stop:
        value, at = read_varint(data, at, field.stop)
        sides.append(_signed(value))
    return sides


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _values(name: str, raw: memoryview, shape: tuple[int, ...], data_type: str) -> NDArray[Any]:
    flat = np.frombuffer(raw, np.dtype(data_type).newbyteorder("<"))
    if min(shape, default=1) < 0 or int(np.prod(shape, dtype=object)) != flat.size:
        raise ValueError(f"'{name}' has {flat.size} values, not those of its shape {shape}")
    return flat.reshape(shape)
