"""Which primitives of MindSpore each operator of PyTorch becomes.

All of them run on the CPU in MindSpore 2.7 to 2.10 with a batch of any length. Not used: strided slices, of which
MindSpore keeps the first batch's length and goes on with it in silence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.export.mindir_call import Call, Value
from t2t_vit.export.mindir_layers import attention, convolution, gelu, layer_norm, linear, windows


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
    "aten.gelu.default": Operator(gelu),
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
    "aten.linear.default": Operator(linear),
    "aten.matmul.default": _product("other"),
    "aten.bmm.default": _product("mat2"),
    "aten.layer_norm.default": Operator(layer_norm),
    "aten.sum.dim_IntList": _reduce("SumExt", None),
    "aten.mean.dim": _reduce("ReduceMean"),
    "aten.amax.default": _reduce("ReduceMax"),
    "aten.softmax.int": Operator(_softmax),
    "aten.scaled_dot_product_attention.default": Operator(attention),
    "aten.im2col.default": Operator(windows),
    "aten.conv2d.default": Operator(convolution),
}
