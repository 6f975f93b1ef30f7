"""MINDIR's bytes: what the writer puts in, the reader finds; the bytes themselves are those that MindSpore parses."""

import numpy as np
import pytest
import torch

from mindir_reference import array, parsed, settings_of, value_of
from t2t_vit.formats.mindir import DYNAMIC, GraphWriter, Mindir, attribute, read_mindir
from t2t_vit.formats.protobuf import bytes_field


def content() -> bytes:
    graph = GraphWriter()
    images = graph.input("images", (DYNAMIC, 2, 3), "float32")
    weight = graph.parameter("norm.gamma", np.arange(6, dtype="float32").reshape(2, 3))
    half = graph.parameter("head.weight", np.ones((1, 4), "float16"))
    total = graph.node("Add", [images, weight])
    again = graph.node("Add", [total, graph.tensor(np.asarray(0.5, "float32"))])
    windows = graph.node("Im2Col", [again], {"ksizes": (7, 7), "padding_mode": "CALCULATED"})
    other = graph.node("Im2Col", [windows, half], {"ksizes": (3, 3), "padding_mode": "CALCULATED"})
    last = graph.node("Reshape", [other, graph.constant((-1, 6))])
    graph.output(last, (DYNAMIC, 6), "float32")
    return graph.to_bytes({"arch": "a", "classes": '["ü"]'}, "t2t_vit", "1.2")


def decoded() -> Mindir:
    return read_mindir(content())


def test_what_was_written_is_read() -> None:
    model = decoded()
    assert model.producer == "t2t_vit 1.2" and model.user_info == {"arch": "a", "classes": '["ü"]'}
    (given,), (answer,) = model.inputs, model.outputs
    assert (given.name, given.shape, given.data_type, given.values) == ("images", (-1, 2, 3), "float32", None)
    assert (answer.name, answer.shape) == (model.nodes[-1].output.partition(":")[2], (-1, 6))
    gamma, half = model.parameters["norm.gamma"], model.parameters["head.weight"]
    assert gamma.values is not None and half.values is not None
    np.testing.assert_array_equal(gamma.values, np.arange(6).reshape(2, 3))
    assert (half.shape, half.data_type, half.values.dtype) == ((1, 4), "float16", np.float16)
    assert [node.operator for node in model.nodes if node.operator != "Constant"] == [
        *("Add", "Add", "Im2Col", "Im2Col", "Reshape")
    ]


def test_every_name_that_is_used_is_there_before() -> None:
    model = decoded()
    known = {"main:images", *(f"main:{name}" for name in model.parameters)}
    for node in model.nodes:
        assert set(node.inputs) <= known, node
        known.add(node.output)


def test_the_same_primitive_and_the_same_constant_are_written_once() -> None:
    graph = GraphWriter()
    assert graph.constant(1) == graph.constant(1) != graph.constant(True)
    assert graph.constant(1.0) != graph.constant(1)
    first = graph.node("Add", [])
    assert graph.node("Add", []) != first
    assert graph.to_bytes({}, "", "").count(b"\x0a\x05Add:0\x12\x03Add") == 1


def test_protobuf_itself_reads_every_field() -> None:
    """By the messages of mind_ir.proto: what stands where, and that nothing else does."""
    model = parsed(content())
    assert (model.ir_version, model.mind_ir_version, model.little_endian) == ("1.0", 3, True)
    assert (model.producer_name, model.model_version, model.graph.name) == ("t2t_vit", "1.2", "main")
    assert {one.key: one.value for one in model.user_info} == {"arch": "a", "classes": '["ü"]'}
    gamma, half = model.graph.parameter
    assert [(one.name, one.ref_key) for one in (gamma, half)] == [
        ("main:norm.gamma", "norm.gamma"),
        ("main:head.weight", "head.weight"),
    ]
    np.testing.assert_array_equal(array(gamma), np.arange(6, dtype="float32").reshape(2, 3))
    np.testing.assert_array_equal(array(half), np.ones((1, 4), "float16"))
    kinds = {one.op_type: one.prim_type for one in model.primitives}
    assert kinds == {"Add": 2, "Im2Col": 1, "Reshape": 2}  # those with attributes, and those with inputs alone
    windows = [settings_of(one) for one in model.primitives if one.op_type == "Im2Col"]
    assert windows == [{"ksizes": (side, side), "padding_mode": "CALCULATED"} for side in (7, 3)]
    number, shape = (value_of(one.attribute[0]) for one in model.graph.node if one.op_type == "Constant")
    assert torch.equal(number, torch.tensor(0.5)) and shape == (-1, 6)


def test_arguments_stand_in_their_order_and_weights_in_theirs() -> None:
    graph = GraphWriter()
    first, second = (
        graph.input("images", (2, 3), "float32"),
        graph.parameter("w", np.arange(6.0).reshape(3, 2)[:, ::-1].astype("float32")),
    )
    table = graph.tensor(np.arange(12, dtype="int64").reshape(3, 4).T)
    graph.output(graph.node("MatMulExt", [first, second, table]), (2, 2), "float32")
    written = graph.to_bytes({}, "", "")
    *_, node = read_mindir(written).nodes
    assert node.inputs == tuple(parsed(written).graph.node[-1].input) == (first, second, table)
    (weight,) = parsed(written).graph.parameter
    np.testing.assert_array_equal(array(weight), [[1, 0], [3, 2], [5, 4]])
    np.testing.assert_array_equal(
        array(parsed(written).graph.node[0].attribute[0].tensors[0]), np.arange(12).reshape(3, 4).T
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "0a01611803800107"),
        (-1, "0a016118ffffffffffffffffff01800107"),
        (True, "0a01611801800109"),
        (0.5, "0a0161150000003f800101"),
        ("pad", "0a01612a03706164800108"),
        (None, "0a0161800119"),
        ((2, -1), "0a01618001148a01055002800107" + "8a010e50ffffffffffffffffff01800107"),
    ],
)
def test_settings_in_the_bytes_of_protobuf(value: object, expected: str) -> None:
    """As the protobuf package writes MindSpore's own schema: an integer in `i`, but in `ints` within a tuple."""
    assert attribute("a", value).hex() == expected  # type: ignore[arg-type]


def test_a_file_that_is_damaged() -> None:
    whole = content()
    for length in range(0, len(whole), 7):
        with pytest.raises(ValueError, match=r"."):
            read_mindir(whole[:length])
    for damaged in (
        whole.replace(b"REF::Reshape", b"REF::Reshapf"),
        whole.replace(b"\x08\x02\x08\x03\x10\x01\x3a", b"\x08\x02\x08\x04\x10\x01\x3a"),  # a side of a weight
    ):
        assert damaged != whole
        with pytest.raises(ValueError, match=r"primitive|values"):
            read_mindir(damaged)


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        (b"\x70\0" * 200_001, "more than 200,000 fields"),
        (bytes_field(7, b"\x0a\0" * 200_001), "more than 200,000 fields"),
        (bytes_field(7, bytes_field(3, bytes_field(1, b"\1" * 17))), "more than 16 numbers"),
        (bytes_field(7, bytes_field(3, b"\x08\1" * 17)), "more than 16 dimensions"),
        (b"".join(bytes_field(14, bytes_field(1, b"a" * 2**20)) for _ in range(17)) + bytes_field(7, b""), "not text"),
    ],
)
def test_what_takes_more_memory_than_its_bytes_has_a_limit(inner: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_mindir(inner)
