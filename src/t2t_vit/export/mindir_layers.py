"""Which primitives of MindSpore the operators become that are whole layers."""

import math

from t2t_vit.export.mindir_call import Call
from t2t_vit.formats.mindir import Setting


def linear(call: Call) -> str:
    inputs = [call.take_tensor(name)[0] for name in ("input", "weight")]
    bias = call.take_optional("bias")
    return call.graph.node("Dense", [*inputs, call.graph.constant(None) if bias is None else bias])


def layer_norm(call: Call) -> str:
    inputs = [call.take_tensor(name)[0] for name in ("input", "weight", "bias")]
    if len(call.take("normalized_shape")) != 1:
        raise call.unmapped("over several dimensions")
    call.take("cudnn_enable")
    last, epsilon = call.graph.constant(-1), call.graph.constant(float(call.take("eps")))
    normed = call.graph.node("LayerNorm", [*inputs, last, last, epsilon])
    return call.graph.node("TupleGetItem", [normed, call.graph.constant(0)])


def attention(call: Call) -> str:
    """softmax(scale q k^T) v, plainly: MindSpore has no fused form on the CPU."""
    (queries, seen), (keys, _), (values, _) = (call.take_tensor(name) for name in ("query", "key", "value"))
    scale = call.take("scale")
    scaled = call.graph.node("Mul", [queries, call.number(seen.shape[-1] ** -0.5 if scale is None else scale)])
    straight, turned = call.graph.constant(False), call.graph.constant(True)
    products = call.graph.node("BatchMatMul", [scaled, keys, straight, turned])
    weights = call.graph.node("Softmax", [products, call.graph.constant((-1,))])
    return call.graph.node("BatchMatMul", [weights, values, straight, straight])


def gelu(call: Call) -> str:
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


def windows(call: Call) -> str:
    settings: dict[str, Setting] = {
        "ksizes": _pair(call.take("kernel_size")),
        "strides": _pair(call.take("stride")),
        "dilations": _pair(call.take("dilation")),
        "padding_mode": "CALCULATED",
        "pads": _pair(call.take("padding")),
    }
    return call.reshaped(call.graph.node("Im2Col", [call.take_tensor("self")[0]], settings))


def convolution(call: Call) -> str:
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
