"""Small graphs as a stranger may hand them in as exported files: the mean of each channel, and worse."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.exported import Metadata
from t2t_vit.inference.runner import INPUT, METADATA, OUTPUT

MEANS = Metadata("a", Preprocessing((4, 6), 0.8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), None, 3)
OF_A_COMMAND = replace(MEANS, arch="t2t_vit_7", preprocessing=Preprocessing((28, 28)))  # as a configuration allows it
_MAKE, FLOAT, INT64, BOOL = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
_AXES = _MAKE.make_tensor("axes", INT64, [2], [2, 3])


def node(kind: str, inputs: str, outputs: str, **settings: Any) -> onnx.NodeProto:
    """A node; names are separated by spaces."""
    return _MAKE.make_node(kind, inputs.split(" "), outputs.split(), **settings)


_HOURS, _SIDE = 2_000, 4_000  # products, and the side of the matrices: 128 TFLOP, from a file of 100 kB


def graph_file(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    out: int | None = FLOAT,
    output: str = OUTPUT,
    given: int = FLOAT,
    more: Sequence[str] = (),
    numbers: int = 1,
    metadata: Metadata = MEANS,
) -> Path:
    """An ONNX file of these nodes, with the constants `axes` (2, 3), `n` (`numbers`) and `true`."""
    value = _MAKE.make_tensor_value_info
    graph = _MAKE.make_graph(
        nodes,
        "graph",
        [
            value(INPUT, given, ["b", 3, *metadata.preprocessing.image_size]),
            *(value(name, FLOAT, [1]) for name in more),
        ],
        [value(output, out, None)],
        [_AXES, _MAKE.make_tensor("n", INT64, [1], [numbers]), _MAKE.make_tensor("true", BOOL, [], [True])],
    )
    model = _MAKE.make_model(graph, opset_imports=[_MAKE.make_opsetid("", 20)], ir_version=9)
    _MAKE.set_model_props(model, metadata.to_strings())
    onnx.save(model, path)
    return path


def means(source: str = INPUT, target: str = OUTPUT) -> onnx.NodeProto:
    """The mean of each channel."""
    return node("ReduceMean", f"{source} axes", target, keepdims=0)


def mean_onnx(path: Path) -> Path:
    """The mean of each channel as logits."""
    return graph_file(path, [means()])


def long_onnx(path: Path, metadata: Metadata = MEANS) -> Path:
    """Hours of products of large matrices that depend on the images, without a loop."""
    axes = [node("ReduceSum", INPUT, "sum", keepdims=0), node("Concat", "n n", "sides", axis=0)]
    first = node("Expand", "sum sides", "p0")
    products = [node("MatMul", f"p{turn} p{turn}", f"p{turn + 1}") for turn in range(_HOURS)]
    last = [node("ReduceSum", f"p{_HOURS}", "all", keepdims=0), means(target="m"), node("Add", "m all", OUTPUT)]
    return graph_file(path, [*axes, first, *products, *last], numbers=_SIDE, metadata=metadata)


def long_openvino(path: Path) -> Path:
    """The same for OpenVINO."""
    ops = openvino.opset13
    images = ops.parameter([-1, 3, 4, 6], np.float32, name=INPUT)
    total = ops.reduce_sum(images, np.array([0, 1, 2, 3]), keep_dims=False)
    matrix = ops.broadcast(total, np.array([_SIDE, _SIDE]))
    for _ in range(_HOURS):
        matrix = ops.matmul(matrix, matrix, False, False)
    everything = ops.reduce_sum(matrix, np.array([0, 1]), keep_dims=False)
    return _openvino_file(path, images, ops.add(_channel_means(images), everything))


def endless_onnx(path: Path, metadata: Metadata = MEANS) -> Path:
    """The images, handed through a loop whose condition stays true."""
    value = _MAKE.make_tensor_value_info
    body = _MAKE.make_graph(
        [node("Identity", "on_in", "on"), node("Identity", "x_in", "x")],
        "body",
        [value("i", INT64, []), value("on_in", BOOL, []), value("x_in", FLOAT, None)],
        [value("on", BOOL, []), value("x", FLOAT, None)],
    )
    return graph_file(path, [node("Loop", f" true {INPUT}", "y", body=body), means("y")], metadata=metadata)


def numbers_onnx(path: Path, count: int, *, at_once: bool, metadata: Metadata = MEANS) -> Path:
    """The means and the sum of so many numbers: at once, or made for each number of the images."""
    size = [] if at_once else [node("Shape", INPUT, "s"), node("ReduceProd", "s", "p"), node("Mul", "p n", "many")]
    nodes = [*size, node("ConstantOfShape", "n" if at_once else "many", "c"), node("ReduceSum", "c", "sum", keepdims=0)]
    return graph_file(path, [*nodes, means(target="m"), node("Add", "m sum", OUTPUT)], numbers=count, metadata=metadata)


def mean_openvino(path: Path, *, loops: bool = False) -> Path:
    """The mean of each channel as logits, after a loop of 2^31 - 1 rounds where it `loops`."""
    ops = openvino.opset13
    images = ops.parameter([-1, 3, 4, 6], np.float32, name=INPUT)
    source: Any = images
    if loops:
        given = ops.parameter([-1, 3, 4, 6], np.float32)
        nearly = ops.multiply(given, np.float32(0.999))
        going_on = ops.constant(np.array([True]))
        body = openvino.Model([going_on, nearly], [given])
        loop = ops.loop(ops.constant(np.int32(2**31 - 1)), ops.constant(np.array(True)))
        loop.set_function(body)
        loop.set_special_body_ports([-1, 0])
        loop.set_merged_input(given, images.output(0), nearly.output(0))
        source = loop.get_iter_value(nearly.output(0), -1)
    return _openvino_file(path, images, _channel_means(source))


def _channel_means(source: Any) -> Any:
    return openvino.opset13.reduce_mean(source, np.array([2, 3]), keep_dims=False)


def _openvino_file(path: Path, images: Any, logits: Any) -> Path:
    model = openvino.Model([logits], [images])
    images.output(0).set_names({INPUT})
    model.set_rt_info(json.dumps(MEANS.to_strings()), [METADATA])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path
