"""MINDIR without MindSpore: the graph says what the network is, and what cannot be said is an error."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mindspore_networks import job, network
from t2t_vit.export.air import air_refusal
from t2t_vit.export.mindir import mindir_graph, write_mindir
from t2t_vit.export.mindir_call import UnmappedError
from t2t_vit.export.table import find_format
from t2t_vit.formats.mindir_read import Mindir, read_mindir
from t2t_vit.inference.metadata import Metadata
from t2t_vit.inference.mindir_predictor import mindir_metadata
from t2t_vit.model import T2TViT
from t2t_vit.variants import VARIANTS
from t2t_vit.weights import file_kind
from t2t_vit.weights.mindspore_names import to_mindspore

SIZE = (28, 36)


@pytest.fixture(scope="module")
def model() -> T2TViT:
    return network("t2t_vit_quickstart", SIZE, in_chans=1, num_classes=7)


@pytest.fixture(scope="module")
def path(model: T2TViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mindir") / "x.mindir"
    write_mindir(job(model), path)
    return path


def written(model: T2TViT, path: Path, **kind: object) -> Mindir:
    write_mindir(job(model, **kind), path)
    return read_mindir(path.read_bytes())


def test_a_dynamic_batch_and_the_networks_own_weights(path: Path, model: T2TViT) -> None:
    decoded = read_mindir(path.read_bytes())
    (images,), (logits,) = decoded.inputs, decoded.outputs
    assert (images.name, images.shape, images.data_type) == ("images", (-1, 1, *SIZE), "float32")
    assert (logits.shape, logits.data_type) == ((-1, 7), "float32")
    expected = to_mindspore(model.state_dict())
    assert "blocks.0.norm1.gamma" in expected
    assert decoded.parameters.keys() == expected.keys()
    for name, value in expected.items():
        found = decoded.parameters[name].values
        assert found is not None
        np.testing.assert_array_equal(found, value.numpy(), err_msg=name)
    operators = {node.operator for node in decoded.nodes}
    assert {"Im2Col", "Softmax", "LayerNorm", "Erf", "BroadcastTo", "Shape"} <= operators
    assert operators.isdisjoint({"StridedSlice", "Cast"})


def test_it_says_what_it_is(path: Path, model: T2TViT) -> None:
    assert file_kind(path) == "mindir"
    assert mindir_metadata(path) == job(model).metadata


@torch.no_grad()
def test_kinds(model: T2TViT, tmp_path: Path) -> None:
    static = written(model, tmp_path / "a.mindir", batch=3)
    assert static.inputs[0].shape == (3, 1, *SIZE) and static.outputs[0].shape == (3, 7)
    assert "Shape" not in {node.operator for node in static.nodes}
    half = written(model, tmp_path / "b.mindir", precision="fp16", normalised_inside=True)
    assert (half.inputs[0].data_type, half.outputs[0].data_type) == ("uint8", "float32")
    assert {one.data_type for one in half.parameters.values()} == {"float16"}
    assert half.parameters.keys() == static.parameters.keys()
    exps = [number for number, node in enumerate(half.nodes) if node.operator == "Exp"]
    casts = [number for number, node in enumerate(half.nodes) if node.operator == "Cast"]
    assert any(number < exps[0] for number in casts) and any(number > exps[-1] for number in casts)


SMALL = {
    "t2t_vit_t_14": {},
    "t2t_vit_14_se": {},
    "t2t_vit_16_ghost": {},
    "t2t_vit_c_14": {},
    "t2t_vit_dense": {"stages": (1, 1)},
}


@pytest.mark.parametrize("arch", SMALL)
def test_every_kind_of_block_has_its_primitives(arch: str, tmp_path: Path) -> None:
    """Two blocks of each; tests/conformance runs the whole networks."""
    row = replace(VARIANTS[arch], depth=2, **SMALL[arch])
    drops = dict.fromkeys(("drop", "drop_path", "drop_block", "performer_drop"), 0.1)
    model = T2TViT(row, arch, num_classes=3, in_chans=3, image_size=(32, 32), approximate_gelu=True, **drops).eval()
    decoded = written(model, tmp_path / "x.mindir")
    expected = {name: tuple(value.shape) for name, value in to_mindspore(model.state_dict()).items()}
    assert {name: one.shape for name, one in decoded.parameters.items()} == expected
    used = {name for node in decoded.nodes for name in node.inputs}
    assert {f"main:{name}" for name in decoded.parameters} <= used
    assert "Tanh" in {node.operator for node in decoded.nodes}


class Wrapped(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x.cumsum(1), r"aten\.cumsum\.default has no counterpart"),
        (lambda x: torch.add(x, x, alpha=2), r"aten\.add\.Tensor with alpha=2"),
        (lambda x: x.split([5, 23], dim=2)[0], r"aten\.split_with_sizes\.default into pieces of different lengths"),
        (lambda x: x.double(), r"aten\._to_copy\.default to torch\.float64"),
        (lambda x: x.sum(dim=1, dtype=torch.float64).float(), r"aten\.sum\.dim_IntList with dtype=torch\.float64"),
        (lambda x: x[0], r"aten\.select\.int along the batch"),
        (lambda x: x.reshape(-1).expand(2, -1), r"aten\.expand\.default to the shape"),
        (lambda x: nn.functional.layer_norm(x, x.shape[2:]), r"aten\.layer_norm\.default"),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True), "with is_causal=True"),
        (lambda x: nn.functional.conv2d(x, x.new_ones(1, 1, 3, 3), padding="same"), r"aten\."),
    ],
)
def test_what_cannot_be_said_is_named(function: object, named: str, model: T2TViT) -> None:
    with pytest.raises(UnmappedError, match=named):
        mindir_graph(Wrapped(function), job(model))


def test_an_operator_without_a_counterpart_leaves_no_file(
    model: T2TViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2t_vit.export.mindir.OPERATORS", {})
    with pytest.raises(UnmappedError, match="has no counterpart in MINDIR"):
        write_mindir(job(model), tmp_path / "x.mindir")
    assert list(tmp_path.iterdir()) == []


def test_air_is_refused_where_there_is_no_ascend() -> None:
    refusal = air_refusal()
    assert refusal is not None and "needs an Ascend machine" in refusal and "nothing was written" in refusal


def test_kinds_that_mindir_has_not(model: T2TViT) -> None:
    from t2t_vit.errors import UserError

    asked: Metadata = job(model).metadata
    for change in ({"precision": "int8"}, {"dynamic_size": True}):
        with pytest.raises(UserError, match="file_format MINDIR"):
            find_format("MINDIR").check(replace(asked, **change))  # type: ignore[arg-type]
