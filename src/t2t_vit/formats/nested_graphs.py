"""Loops and branches in exported graphs, found in the file before a runtime sees it.

A loop runs graphs that lie within its operator, and so may run without end; so do scans and branches, and a function
that calls another ten times, which calls a third ten times, takes a million calls with six of them. No export of ours
holds a graph within its graph, in any format.
"""

import mmap
from pathlib import Path
from xml.parsers import expat

from t2t_vit.files import open_regular
from t2t_vit.formats.protobuf import BYTES, Field, Reader

_LONGEST_NAME = 2**16  # bytes of an operator's name
_PIECE = 2**20  # bytes of XML that are parsed at a time
_MOST_XML = 2**23  # bytes; t2t_vit_19 takes an eighth, and 100,000 operators took OpenVINO minutes to load

# message ModelProto { GraphProto graph = 7; FunctionProto functions = 25; }
# message GraphProto { NodeProto node = 1; }
# message NodeProto { string op_type = 4; AttributeProto attribute = 5; }
# message AttributeProto { GraphProto g = 6; repeated GraphProto graphs = 11; }
# Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_GRAPH, _FUNCTIONS, _NODE, _OP_TYPE, _ATTRIBUTE, _NESTED = 7, 25, 1, 4, 5, (6, 11)


class NestedGraphError(ValueError):
    """A graph holds an operator with a graph of its own; the message names it."""


def check_onnx(path: str | Path) -> None:
    """Look through an ONNX file, whose weights are not read.

    Raises:
        NestedGraphError: an operator holds a graph, or the file defines functions.
        ValueError: it is cut short or damaged.
        OSError: it cannot be read.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        view = memoryview(content)
        try:
            _check_model(Reader(view))
        finally:
            view.release()


def _check_model(reader: Reader) -> None:
    for part in reader.fields(0, len(reader.data)):
        if part.number == _FUNCTIONS:
            raise NestedGraphError("holds functions, which no export of t2t_vit has")
        if part.number == _GRAPH and part.wire == BYTES:
            for node in reader.fields(part.start, part.stop):
                if node.number == _NODE and node.wire == BYTES:
                    _check_node(reader, node)


def _check_node(reader: Reader, node: Field) -> None:
    operator, nests = "", False
    for one in reader.fields(node.start, node.stop):
        if one.number == _OP_TYPE:
            operator = reader.text(one, _LONGEST_NAME)
        elif one.number == _ATTRIBUTE and one.wire == BYTES:
            nests |= any(inner.number in _NESTED for inner in reader.fields(one.start, one.stop))
    if nests:
        raise NestedGraphError(_nested(operator))


def check_openvino(path: str | Path) -> None:
    """Look through the XML of an OpenVINO file.

    Raises:
        NestedGraphError: a layer holds a graph.
        ValueError: it is cut short, damaged, longer than any network needs, or defines entities.
        OSError: it cannot be read.
    """
    layers: list[str] = []  # that are open: in a graph without others never more than one

    def begin(name: str, attributes: dict[str, str]) -> None:
        if name == "layer":
            layers.append(attributes.get("type", ""))
            if len(layers) > 1:
                raise NestedGraphError(_nested(layers[0]))
        if name in ("layers", "body", "then_body", "else_body") and layers:
            raise NestedGraphError(_nested(layers[-1]))

    def end(name: str) -> None:
        if name == "layer":
            layers.pop()

    def refuse(*_: object) -> None:
        raise ValueError("it defines entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.StartDoctypeDeclHandler = refuse
    with open_regular(path) as file:
        try:
            while piece := file.read(_PIECE):
                if file.tell() > _MOST_XML:
                    raise ValueError(f"it has more than {_MOST_XML:,} bytes")
                parser.Parse(piece)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise ValueError(expat.ErrorString(error.code)) from error


def _nested(operator: str) -> str:
    return f"holds the operator {operator} with a graph of its own, which no export of t2t_vit has"
