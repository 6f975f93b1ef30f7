"""Loops, branches and functions are found in graphs of strangers before anything runs them."""

from pathlib import Path

import onnx
import pytest

from exported_graphs import FLOAT, INT64, endless_onnx, mean_onnx, mean_openvino, node
from t2t_vit.formats.mindir import GraphWriter, read_mindir
from t2t_vit.formats.nested_graphs import NestedGraphError, check_onnx, check_openvino
from t2t_vit.formats.protobuf import bytes_field, number_field, varint

LAYER = '<layer id="0" type="{}">{}</layer>'


def xml(inside: str, head: str = "") -> bytes:
    return f'<?xml version="1.0"?>{head}<net><layers>{inside}</layers></net>'.encode()


def branch() -> onnx.NodeProto:
    value = onnx.helper.make_tensor_value_info("y", FLOAT, None)
    side = onnx.helper.make_graph([node("Identity", "images", "y")], "side", [], [value])
    return node("If", "true", "z", then_branch=side, else_branch=side)


def test_graphs_without_others_are_let_through(tmp_path: Path) -> None:
    check_onnx(mean_onnx(tmp_path / "x.onnx"))
    check_openvino(mean_openvino(tmp_path / "x.xml"))


def test_onnx(tmp_path: Path) -> None:
    with pytest.raises(NestedGraphError, match="holds the operator Loop "):
        check_onnx(endless_onnx(tmp_path / "x.onnx"))
    model = onnx.load(mean_onnx(tmp_path / "x.onnx"))
    model.graph.node.append(branch())
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(NestedGraphError, match="holds the operator If "):
        check_onnx(tmp_path / "x.onnx")


def test_a_second_graph_field_is_read_as_onnx_reads_it(tmp_path: Path) -> None:
    """Fields of the same number become one message."""
    path = mean_onnx(tmp_path / "x.onnx")
    more = onnx.GraphProto(node=[branch()]).SerializeToString()
    path.write_bytes(path.read_bytes() + bytes_field(7, more))
    assert any(one.op_type == "If" for one in onnx.load(path).graph.node)
    with pytest.raises(NestedGraphError, match="operator If "):
        check_onnx(path)


def test_functions(tmp_path: Path) -> None:
    model = onnx.load(mean_onnx(tmp_path / "x.onnx"))
    model.functions.append(
        onnx.helper.make_function("f", "F", ["a"], ["b"], [node("Identity", "a", "b")], model.opset_import)
    )
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(NestedGraphError, match="holds functions"):
        check_onnx(tmp_path / "x.onnx")


@pytest.mark.parametrize("content", [b"", b"\x3a\xff", varint((7 << 3 | 2) + 2**35) + b"\0", varint(8 << 3 | 3)])
def test_what_readers_could_understand_in_two_ways_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ValueError):
        check_onnx(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (xml(LAYER.format("Loop", "<body><layers/></body>")), "operator Loop "),
        (xml(LAYER.format("L&#111;op", "<body/>")), "operator Loop "),
        (xml(LAYER.format("If", "<then_body/><else_body/>")), "operator If "),
        (xml(LAYER.format("Odd", LAYER.format("Add", ""))), "operator Odd "),
        (xml(LAYER.format("&a;", ""), '<!DOCTYPE net [<!ENTITY a "Loop">]>'), "it defines entities"),
        (xml("<layer>"), "mismatched tag"),
        (b"", "no element found"),
    ],
)
def test_openvino(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        check_openvino(tmp_path / "x.xml")


@pytest.mark.parametrize("number", [8, 9])
def test_mindir(number: int) -> None:
    graph = GraphWriter()
    graph.output(graph.node("ReLU", [graph.input("images", (-1, 3), "float32")]), (-1, 3), "float32")
    content = graph.to_bytes({}, "t2t_vit", "1")
    assert len(read_mindir(content).nodes) == 1
    with pytest.raises(ValueError, match="more graphs than one"):
        read_mindir(content + bytes_field(number, number_field(1, INT64)))


def test_openvino_with_more_operators_than_any_network(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_bytes(xml(LAYER.format("Sin", "") + " " * 2**23))
    with pytest.raises(ValueError, match="it has more than 8,388,608 bytes"):
        check_openvino(path)
