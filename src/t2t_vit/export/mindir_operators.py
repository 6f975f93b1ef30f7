"""Which primitives of MindSpore each operator of PyTorch becomes.

All of them run on the CPU in MindSpore 2.7 to 2.10 with a batch of any length. Not used: strided slices, of which
MindSpore keeps the first batch's length and silently continues with it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.export.mindir_call import Call, Value
from t2t_vit.formats.mindir import Setting


@dataclass(frozen=True)
class Operator:
    """How one operator is written; `implied` arguments say nothing that the shape of the result does not say."""

    write: Callable[[Call], Value]
    implied: tuple[str, ...] = ()


def _unary(primitive: str) -> Operator:
    return Operator(lambda call: call.graph.node(primitive, [call.take_tensor("self")[0]]))


def _binary(primitive: str) -> Operator:
    return Operator(lambda call: call.graph.node(primitive, [call.take_operand("self"), call.take_operand("other")]))


def _reshape(*implied: str) -> Operator:
    return Operator(lambda call: call.reshaped(call.take_tensor("self")[0]), implied)


def _same(*implied: str) -> Operator:
    return Operator(lambda call: call.take_tensor("self")[0], implied)


def _cast(call: Call) -> str:
    value, _ = call.take_tensor("self")
    return call.cast(value, call.take("dtype"))


def _expand(call: Call) -> str:
    return call.graph.node("BroadcastTo", [call.take_tensor("self")[0], call.sides()])


def _permuted(call: Call, value: str, order: list[int]) -> str:
    return call.graph.node("Transpose", [value, call.graph.constant(tuple(order))])


def _permute(call: Call) -> str:
    value, seen = call.take_tensor("self")
    return _permuted(call, value, [dim % seen.ndim for dim in call.take("dims")])


def _transpose(call: Call) -> str:
    value, seen = call.take_tensor("self")
    order = list(range(seen.ndim))
    first, second = call.take("dim0"), call.take("dim1")
    order[first], order[second] = order[second], order[first]
    return _permuted(call, value, order)


def _t(call: Call) -> str:
    value, seen = call.take_tensor("self")
    return _permuted(call, value, list(reversed(range(seen.ndim))))


def _product(other: str) -> Operator:
    return Operator(
        lambda call: call.graph.node("MatMulExt", [call.take_tensor("self")[0], call.take_tensor(other)[0]])
    )


def _reduce(primitive: str, *more: None) -> Operator:
    def write(call: Call) -> str:
        value, seen = call.take_tensor("self")
        dims = tuple(dim % seen.ndim for dim in call.take("dim"))
        settings = (dims, bool(call.take("keepdim")), *more)
        return call.graph.node(primitive, [value, *map(call.graph.constant, settings)])

    return Operator(write)


def _softmax(call: Call) -> str:
    value, _ = call.take_tensor("self")
    return call.graph.node("Softmax", [value, call.graph.constant((int(call.take("dim")),))])


def _clamp(call: Call) -> str:
    value, _ = call.take_tensor("self")
    for name, primitive in (("min", "Maximum"), ("max", "Minimum")):
        bound = call.take(name)
        if bound is not None:
            value = call.graph.node(primitive, [value, call.number(bound)])
    return value


def _concatenate(call: Call) -> str:
    parts = call.graph.node("MakeTuple", call.take_tensors("tensors"))
    return call.graph.node("Concat", [parts, call.graph.constant(int(call.take("dim")))])


def _split(call: Call) -> Value:
    """Pieces of one length; `split_size` is implied by the pieces."""
    value, _ = call.take_tensor("self")
    pieces: tuple[Tensor, ...] = tuple(call.node.meta["val"])
    dim = int(call.take("dim"))
    if len({piece.shape[dim] for piece in pieces}) > 1:
        raise call.unmapped("into pieces of different lengths")
    taken = call.graph.node("Split", [value, call.graph.constant(dim), call.graph.constant(len(pieces))])
    return tuple(call.graph.node("TupleGetItem", [taken, call.graph.constant(i)]) for i in range(len(pieces)))


def _gather(call: Call, value: str, seen: Tensor, dim: int, places: NDArray[np.int64]) -> str:
    if not isinstance(seen.shape[dim], int):
        raise call.unmapped("along the batch")
    constant = call.graph.constant
    return call.graph.node("Gather", [value, call.graph.tensor(places), constant(dim % seen.ndim), constant(0)])


def _select(call: Call) -> str:
    value, seen = call.take_tensor("self")
    dim, index = call.take("dim"), call.take("index")
    return _gather(call, value, seen, dim, np.asarray(index % seen.shape[dim], "int64"))


def _slice(call: Call) -> str:
    value, seen = call.take_tensor("self")
    dim, bounds = call.take("dim"), slice(*(call.take(name) for name in ("start", "end", "step")))
    if call.result.shape[dim] == seen.shape[dim]:
        return value
    return _gather(call, value, seen, dim, np.arange(seen.shape[dim], dtype="int64")[bounds])


def _linear(call: Call) -> str:
    inputs = [call.take_tensor(name)[0] for name in ("input", "weight")]
    bias = call.take_optional("bias")
    return call.graph.node("Dense", [*inputs, call.graph.constant(None) if bias is None else bias])


def _layer_norm(call: Call) -> str:
    inputs = [call.take_tensor(name)[0] for name in ("input", "weight", "bias")]
    if len(call.take("normalized_shape")) != 1:
        raise call.unmapped("over several dimensions")
    call.take("cudnn_enable")
    last, epsilon = call.graph.constant(-1), call.graph.constant(float(call.take("eps")))
    normed = call.graph.node("LayerNorm", [*inputs, last, last, epsilon])
    return call.graph.node("TupleGetItem", [normed, call.graph.constant(0)])


def _attention(call: Call) -> str:
    """softmax(scale q k^T) v, plainly: MindSpore has no fused form on the CPU."""
    (queries, seen), (keys, _), (values, _) = (call.take_tensor(name) for name in ("query", "key", "value"))
    scale = call.take("scale")
    scaled = call.graph.node("Mul", [queries, call.number(seen.shape[-1] ** -0.5 if scale is None else scale)])
    straight, turned = call.graph.constant(False), call.graph.constant(True)
    products = call.graph.node("BatchMatMul", [scaled, keys, straight, turned])
    weights = call.graph.node("Softmax", [products, call.graph.constant((-1,))])
    return call.graph.node("BatchMatMul", [weights, values, straight, straight])


def _gelu(call: Call) -> str:
    """x / 2 (1 + erf(x / sqrt 2)), or with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) in place of erf."""
    x, _ = call.take_tensor("self")
    node, number = call.graph.node, call.number
    kind = call.take("approximate")
    if kind == "none":
        inner = node("Erf", [node("Mul", [x, number(math.sqrt(0.5))])])
    elif kind == "tanh":
        cube = node("Mul", [node("Mul", [x, x]), node("Mul", [x, number(0.044715)])])
        inner = node("Tanh", [node("Mul", [node("Add", [x, cube]), number(math.sqrt(2 / math.pi))])])
    else:
        raise call.unmapped(f"with approximate={kind}")
    return node("Mul", [node("Mul", [x, number(0.5)]), node("Add", [inner, number(1.0)])])


def _windows(call: Call) -> str:
    settings: dict[str, Setting] = {
        "ksizes": _pair(call.take("kernel_size")),
        "strides": _pair(call.take("stride")),
        "dilations": _pair(call.take("dilation")),
        "padding_mode": "CALCULATED",
        "pads": _pair(call.take("padding")),
    }
    return call.reshaped(call.graph.node("Im2Col", [call.take_tensor("self")[0]], settings))


def _convolution(call: Call) -> str:
    value, (weight, seen) = call.take_tensor("input")[0], call.take_tensor("weight")
    (top, left), stride, dilation = (_pair(call.take(name)) for name in ("padding", "stride", "dilation"))
    padding, groups = (top, top, left, left), int(call.take("groups"))
    settings: dict[str, Setting] = {
        "out_channel": int(seen.shape[0]),
        "kernel_size": tuple(int(side) for side in seen.shape[2:]),
        "mode": 1,
        "pad_mode": "pad",
        "pad": padding,
        "pad_list": padding,
        "stride": (1, 1, *stride),
        "dilation": (1, 1, *dilation),
        "group": groups,
        "groups": groups,
        "format": "NCHW",
    }
    convolved = call.graph.node("Conv2D", [value, weight], settings)
    bias = call.take_optional("bias")
    return convolved if bias is None else call.graph.node("BiasAdd", [convolved, bias, call.graph.constant(0)])


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values if len(values) == 2 else (values[0], values[0])
    return first, second


OPERATORS: Mapping[str, Operator] = {
    "aten.add.Tensor": _binary("Add"),
    "aten.sub.Tensor": _binary("Sub"),
    "aten.mul.Tensor": _binary("Mul"),
    "aten.div.Tensor": _binary("Div"),
    "aten.neg.default": _unary("Neg"),
    "aten.exp.default": _unary("Exp"),
    "aten.square.default": _unary("Square"),
    "aten.relu.default": _unary("ReLU"),
    "aten.sigmoid.default": _unary("Sigmoid"),
    "aten.tanh.default": _unary("Tanh"),
    "aten.gelu.default": Operator(_gelu),
    "aten.clamp.default": Operator(_clamp),
    "aten._to_copy.default": Operator(_cast),
    "aten.alias.default": _same(),
    "aten.detach.default": _same(),
    "aten.clone.default": _same("memory_format"),
    "aten.view.default": _reshape("size"),
    "aten.reshape.default": _reshape("shape"),
    "aten.flatten.using_ints": _reshape("start_dim", "end_dim"),
    "aten.unsqueeze.default": _reshape("dim"),
    "aten.squeeze.dim": _reshape("dim"),
    "aten.squeeze.dims": _reshape("dim"),
    "aten.expand.default": Operator(_expand, ("size",)),
    "aten.permute.default": Operator(_permute),
    "aten.transpose.int": Operator(_transpose),
    "aten.t.default": Operator(_t),
    "aten.cat.default": Operator(_concatenate),
    "aten.split.Tensor": Operator(_split, ("split_size",)),
    "aten.split_with_sizes.default": Operator(_split, ("split_sizes",)),
    "aten.select.int": Operator(_select),
    "aten.slice.Tensor": Operator(_slice),
    "aten.linear.default": Operator(_linear),
    "aten.matmul.default": _product("other"),
    "aten.bmm.default": _product("mat2"),
    "aten.layer_norm.default": Operator(_layer_norm),
    "aten.sum.dim_IntList": _reduce("SumExt", None),
    "aten.mean.dim": _reduce("ReduceMean"),
    "aten.amax.default": _reduce("ReduceMax"),
    "aten.softmax.int": Operator(_softmax),
    "aten.scaled_dot_product_attention.default": Operator(_attention),
    "aten.im2col.default": Operator(_windows),
    "aten.conv2d.default": Operator(_convolution),
}
