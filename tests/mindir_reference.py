"""MINDIR files by means that the package does not use: Google's protobuf reads them, PyTorch computes them.

The messages are those of MindSpore's `mind_ir.proto`, and each primitive means what MindSpore's documentation says of
it, so a file that computes something else than its network is found out where MindSpore is not installed.
"""

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch import Tensor
from torch.nn import functional

# name: (number, type, repeated); other messages are named.
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Tensor": {
        "dims": (1, "int64", True),
        "data_type": (2, "int32", False),
        "name": (7, "string", False),
        "raw_data": (9, "bytes", False),
        "ref_key": (13, "string", False),
    },
    "Attribute": {
        "name": (1, "string", False),
        "f": (2, "float", False),
        "i": (3, "int64", False),
        "s": (5, "bytes", False),
        "ints": (10, "int64", True),
        "tensors": (12, "Tensor", True),
        "type": (16, "int32", False),
        "values": (17, "Attribute", True),
    },
    "ValueInfo": {"name": (1, "string", False), "tensor": (2, "Tensor", True)},
    "Node": {
        "input": (1, "string", True),
        "output": (2, "string", True),
        "name": (3, "string", False),
        "op_type": (4, "string", False),
        "attribute": (5, "Attribute", True),
    },
    "Primitive": {
        "name": (1, "string", False),
        "op_type": (2, "string", False),
        "attribute": (3, "Attribute", True),
        "prim_type": (5, "int32", False),
    },
    "Entry": {"key": (1, "string", False), "value": (2, "string", False)},
    "Graph": {
        "node": (1, "Node", True),
        "name": (2, "string", False),
        "parameter": (3, "Tensor", True),
        "input": (5, "ValueInfo", True),
        "output": (6, "ValueInfo", True),
    },
    "Model": {
        "ir_version": (1, "string", False),
        "producer_name": (2, "string", False),
        "model_version": (5, "string", False),
        "graph": (7, "Graph", False),
        "little_endian": (10, "bool", False),
        "primitives": (12, "Primitive", True),
        "mind_ir_version": (13, "int64", False),
        "user_info": (14, "Entry", True),
    },
}
# The numbers of TensorProto.DataType and AttributeProto.AttributeType.
DATA_TYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 10: "float16"}
_FLOAT, _INT64, _STRING, _BOOL, _TENSORS, _TUPLE, _NONE = 1, 7, 8, 9, 19, 20, 25
_CASTS = {42: torch.float16, 43: torch.float32}
_WITH_ATTRIBUTES, _WITH_INPUTS = 1, 2


@cache
def _model_class() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="mind_ir_of_the_tests.proto", package="tests", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for key, (number, kind, repeated) in fields.items():
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            added = message.field.add(name=key, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = field.TYPE_MESSAGE, f".tests.{kind}"
            else:
                added.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.Model"))


def parsed(content: bytes) -> Any:
    """The ModelProto in `content`, in which protobuf knows every field.

    Raises:
        google.protobuf.message.DecodeError: it is no such message.
    """
    model = _model_class().FromString(content)
    copy = _model_class().FromString(content)
    copy.DiscardUnknownFields()
    assert copy.ByteSize() == model.ByteSize(), "fields that mind_ir.proto does not have"
    return model


def array(tensor: Any) -> np.ndarray:
    """The values of a TensorProto."""
    return np.frombuffer(tensor.raw_data, DATA_TYPES[tensor.data_type]).reshape(tuple(tensor.dims))


def value_of(attribute: Any) -> Any:
    """What an AttributeProto holds, by its type and by the field that MindSpore reads for that type."""
    readers: dict[int, Callable[[], Any]] = {
        _FLOAT: lambda: attribute.f,
        _INT64: lambda: attribute.i if attribute.HasField("i") else int(attribute.ints[0]),
        _STRING: attribute.s.decode,
        _BOOL: lambda: bool(attribute.i),
        _TENSORS: lambda: torch.from_numpy(array(attribute.tensors[0]).copy()),
        _TUPLE: lambda: tuple(value_of(one) for one in attribute.values),
        _NONE: lambda: None,
    }
    return readers[attribute.type]()


def settings_of(primitive: Any) -> dict[str, Any]:
    """The attributes of a primitive by their names."""
    return {one.name: value_of(one) for one in primitive.attribute}


def computed(content: bytes, images: Tensor) -> Tensor:
    """What the graph makes of `images`, node by node."""
    model = parsed(content)
    primitives = {one.name: one for one in model.primitives}
    graph = model.graph
    ((given,), (answer,)) = graph.input, graph.output
    values: dict[str, Any] = {one.name: torch.from_numpy(array(one).copy()) for one in graph.parameter}
    _fits(images, given.tensor[0])
    values[given.name] = images
    for node in graph.node:
        (output,) = node.output
        if node.op_type == "Constant":
            values[output] = value_of(node.attribute[0])
            continue
        primitive = primitives[node.op_type.removeprefix("REF::")]
        has_attributes = primitive.op_type in ("Conv2D", "Im2Col", "MakeTuple", "TupleGetItem")
        assert primitive.prim_type == (_WITH_ATTRIBUTES if has_attributes else _WITH_INPUTS), primitive.op_type
        inputs = [values[name] for name in node.input]
        values[output] = _PRIMITIVES[primitive.op_type](*inputs, **settings_of(primitive))
    _fits(values[answer.name], answer.tensor[0])
    return values[answer.name]


def _fits(tensor: Tensor, said: Any) -> None:
    """A side of -1 has any length, every other one its own."""
    assert str(tensor.dtype) == f"torch.{DATA_TYPES[said.data_type]}"
    assert len(tensor.shape) == len(said.dims)
    assert all(side in (-1, there) for side, there in zip(said.dims, tensor.shape, strict=True))


def _alike(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """MindSpore gets both operands in one type here."""

    def checked(first: Tensor, second: Tensor) -> Tensor:
        assert first.dtype == second.dtype
        return function(first, second)

    return checked


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, axis: int, params_axis: int, epsilon: float) -> tuple[Tensor]:
    assert axis == params_axis == -1
    return (functional.layer_norm(x, x.shape[-1:], gamma, beta, epsilon),)


def _batch_mat_mul(a: Tensor, b: Tensor, turn_a: bool, turn_b: bool) -> Tensor:
    return (a.mT if turn_a else a) @ (b.mT if turn_b else b)


def _sum(x: Tensor, dims: tuple[int, ...], keep: bool, dtype: None) -> Tensor:
    assert dtype is None
    return x.sum(dims, keep)


def _split(x: Tensor, axis: int, count: int) -> tuple[Tensor, ...]:
    assert x.shape[axis] % count == 0
    return tuple(x.chunk(count, axis))


def _gather(x: Tensor, places: Tensor, axis: int, batch_dims: int) -> Tensor:
    assert batch_dims == 0 and axis >= 0
    taken = x.index_select(axis, places.flatten())
    return taken.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def _im2col(x: Tensor, *, ksizes: Any, strides: Any, dilations: Any, padding_mode: str, pads: Any) -> Tensor:
    assert padding_mode == "CALCULATED"
    windows = functional.unfold(x, ksizes, dilations, pads, strides)
    return windows.view(len(x), x.shape[1], ksizes[0] * ksizes[1], -1)


def _conv2d(x: Tensor, weight: Tensor, **settings: Any) -> Tensor:
    assert (settings["mode"], settings["pad_mode"], settings["format"]) == (1, "pad", "NCHW")
    assert settings["pad"] == settings["pad_list"] and settings["group"] == settings["groups"]
    assert settings["out_channel"] == len(weight) and settings["kernel_size"] == tuple(weight.shape[2:])
    top, bottom, left, right = settings["pad"]
    padded = functional.pad(x, (left, right, top, bottom))
    stride, dilation = settings["stride"], settings["dilation"]
    assert stride[:2] == dilation[:2] == (1, 1)
    return functional.conv2d(padded, weight, None, stride[2:], 0, dilation[2:], settings["group"])


def _bias_add(x: Tensor, bias: Tensor, layout: int) -> Tensor:
    assert layout == 0  # NCHW
    return x + bias.view(1, -1, 1, 1)


_PRIMITIVES: dict[str, Callable[..., Any]] = {
    "Add": _alike(operator.add),
    "Sub": _alike(operator.sub),
    "Mul": _alike(operator.mul),
    "Div": _alike(operator.truediv),
    "Maximum": _alike(torch.maximum),
    "Minimum": _alike(torch.minimum),
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Erf": torch.erf,
    "Tanh": torch.tanh,
    "Square": torch.square,
    "ReLU": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Cast": lambda x, number: x.to(_CASTS[number]),
    "Dense": functional.linear,
    "MatMulExt": _alike(torch.matmul),
    "BatchMatMul": _batch_mat_mul,
    "LayerNorm": _layer_norm,
    "Softmax": lambda x, axes: x.softmax(*axes),
    "Transpose": lambda x, order: x.permute(order),
    "Reshape": lambda x, shape: x.reshape(shape),
    "BroadcastTo": lambda x, shape: x.expand(shape),
    "Shape": lambda x: tuple(x.shape),
    "Concat": torch.cat,
    "Split": _split,
    "Gather": _gather,
    "SumExt": _sum,
    "ReduceMean": lambda x, dims, keep: x.mean(dims, keep),
    "ReduceMax": lambda x, dims, keep: x.amax(dims, keep),
    "MakeTuple": lambda *parts: parts,
    "TupleGetItem": lambda parts, place: parts[place],
    "Im2Col": _im2col,
    "Conv2D": _conv2d,
    "BiasAdd": _bias_add,
}
