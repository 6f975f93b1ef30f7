"""MINDIR without MindSpore: the graph says what the network is, and what cannot be said is an error."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mindir_reference import computed
from mindspore_networks import job, network, pictures, spread
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.export.file_formats import find_format
from t2t_vit.export.graph_form import graph_form
from t2t_vit.export.mindir import mindir_graph, write_mindir
from t2t_vit.export.mindir_call import UnmappedError
from t2t_vit.export.torch_formats import air_refusal
from t2t_vit.formats.mindir import read_mindir
from t2t_vit.inference.exported import Metadata
from t2t_vit.inference.mindir_predictor import mindir_metadata
from t2t_vit.model import T2TViT
from t2t_vit.variants import VARIANTS
from t2t_vit.weights import file_kind
from t2t_vit.weights.names import to_mindspore

SIZE = (28, 36)


@pytest.fixture(scope="module")
def model() -> T2TViT:
    return network("t2t_vit_quickstart", SIZE, in_chans=1, num_classes=7)


@pytest.fixture(scope="module")
def path(model: T2TViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mindir") / "x.mindir"
    write_mindir(job(model), path)
    return path


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


SMALL = {
    "t2t_vit_t_14": {},
    "t2t_vit_14_se": {},
    "t2t_vit_16_ghost": {},
    "t2t_vit_c_14": {},
    "t2t_vit_s_6": {},
    "t2t_vit_dense": {"stages": (1, 1)},
}


def preprocessing_of(model: T2TViT) -> Preprocessing:
    """No two channels alike."""
    count = model.in_chans
    return Preprocessing(model.image_size, mean=(0.3, 0.5, 0.6)[:count], std=(0.2, 0.25, 0.4)[:count], in_chans=count)


def graph_of(model: T2TViT, **kind: object) -> bytes:
    asked = job(model)
    metadata = Metadata(model.name, preprocessing_of(model), None, model.num_classes, **kind)  # type: ignore[arg-type]
    asked = replace(asked, metadata=metadata)
    return mindir_graph(graph_form(asked, by_slices=False), asked).to_bytes({}, "", "")


def agree(ours: Tensor, expected: Tensor, share: float) -> None:
    assert ours.shape == expected.shape and ours.dtype == torch.float32
    assert float((ours - expected).abs().max()) <= share * float(expected.abs().max())
    assert float(expected.std()) > 1  # what is compared differs from image to image and from class to class


@torch.no_grad()
@pytest.mark.parametrize("arch", ["t2t_vit_7", *SMALL])
def test_every_kind_of_block_computes_what_the_network_does(arch: str) -> None:
    """Node by node, by what MindSpore's documentation says of each primitive; tests/conformance asks the real one."""
    model = small(arch)
    content, normalise = graph_of(model), preprocessing_of(model).normalize
    for count in (1, 3, 2):  # a batch of any length
        images = normalise(pictures(model.image_size, count=count))
        agree(computed(content, images), model(images), 1e-4)
    decoded = read_mindir(content)
    expected = {name: tuple(value.shape) for name, value in to_mindspore(model.state_dict()).items()}
    assert {name: one.shape for name, one in decoded.parameters.items()} == expected
    used = {name for node in decoded.nodes for name in node.inputs}
    assert {f"main:{name}" for name in decoded.parameters} <= used
    assert "Tanh" in {node.operator for node in decoded.nodes}


@torch.no_grad()
def test_a_fixed_batch_of_pixels(model: T2TViT) -> None:
    content = graph_of(model, batch=3, normalised_inside=True)
    pixels = pictures(SIZE, 1, count=3)
    agree(computed(content, pixels), model(preprocessing_of(model).normalize(pixels)), 1e-4)
    decoded = read_mindir(content)
    assert (decoded.inputs[0].shape, decoded.inputs[0].data_type) == ((3, 1, *SIZE), "uint8")
    assert decoded.outputs[0].shape == (3, 7)
    assert "Shape" not in {node.operator for node in decoded.nodes}


@torch.no_grad()
def test_half_precision_but_in_the_performers_attention() -> None:
    model = network("t2t_vit_quickstart", SIZE, num_classes=7)
    content = graph_of(model, precision="fp16", normalised_inside=True)
    pixels = pictures(SIZE, count=3)
    agree(computed(content, pixels), model(preprocessing_of(model).normalize(pixels)), 2e-2)
    half = read_mindir(content)
    assert (half.inputs[0].data_type, half.outputs[0].data_type) == ("uint8", "float32")
    assert {one.data_type for one in half.parameters.values()} == {"float16"}
    assert half.parameters.keys() == to_mindspore(model.state_dict()).keys()
    exps = [number for number, node in enumerate(half.nodes) if node.operator == "Exp"]
    casts = [number for number, node in enumerate(half.nodes) if node.operator == "Cast"]
    assert any(number < exps[0] for number in casts) and any(number > exps[-1] for number in casts)


def small(arch: str) -> T2TViT:
    """Two blocks, for images of 32 x 48 pixels, with the GELU by tanh; every tensor matters to the logits."""
    row = replace(VARIANTS[arch], **{"depth": 2, **SMALL.get(arch, {})})
    drops = dict.fromkeys(("drop", "drop_path", "drop_block", "performer_drop"), 0.1)
    model = T2TViT(row, arch, num_classes=5, in_chans=3, image_size=(32, 48), approximate_gelu=True, **drops).eval()
    return spread(model)


MATRIX = torch.arange(72.0).view(2, 36).cos()
ROWS = MATRIX.unbind()
PAIR = torch.tensor([1.0, -3.0])
KERNEL = torch.arange(30.0).view(2, 1, 3, 5).sin()
GROUPS = KERNEL.view(6, 1, 1, 5).clone()
# The images are (2, 1, 28, 36); each operator's own arguments differ from their defaults.
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "select": lambda x: x.select(2, 3),
    "select from the end": lambda x: x.select(3, -2),
    "slice": lambda x: x[:, :, 4:20:3],
    "slice to the end": lambda x: x[..., 30:],
    "split": lambda x: torch.cat([part * scale for scale, part in enumerate(x.split(9, 3), 1)], 3),
    "cat": lambda x: torch.cat([x, x * 2, x * 3], -2),
    "permute": lambda x: x.permute(0, 3, 1, -2),
    "transpose": lambda x: x.transpose(-1, 1),
    "transpose of a weight": lambda x: torch.matmul(x, MATRIX.t()),
    "subtract": lambda x: (x - 1) - x.square(),
    "divide": lambda x: (x / 3) / (x.square() + 1),
    "clamp": lambda x: x.clamp(-0.5, 0.75),
    "clamp below": lambda x: x.clamp(min=0.25),
    "sum": lambda x: x.sum((1, 3)),
    "sum and keep": lambda x: x.sum(-2, keepdim=True),
    "mean": lambda x: x.mean((-1, 2)),
    "mean and keep": lambda x: x.mean(3, keepdim=True),
    "amax": lambda x: x.amax((2,)),
    "amax and keep": lambda x: x.amax((-1,), keepdim=True),
    "softmax": lambda x: x.softmax(2),
    "softmax of the last": lambda x: x.softmax(-1),
    "unary": lambda x: (-x).exp() + x.relu() * 2 + x.sigmoid() * 3 + x.tanh() * 4 + x.square() * 5,
    "gelu": nn.functional.gelu,
    "gelu by tanh": lambda x: nn.functional.gelu(x * 3, approximate="tanh"),
    "expand": lambda x: x[:, :, :1].expand(-1, 1, 5, -1),
    "attention": lambda x: nn.functional.scaled_dot_product_attention(x, x * 2, x + 1),
    "attention of a scale": lambda x: nn.functional.scaled_dot_product_attention(
        x, x[:, :, 3:9], x[:, :, 1:7], scale=0.7
    ),
    "windows": lambda x: nn.functional.unfold(x, (3, 5), (1, 1), (1, 2), (2, 3)),
    "dilated windows": lambda x: nn.functional.unfold(x, (3, 2), (2, 3), (0, 1), (3, 2)),
    "linear": lambda x: nn.functional.linear(x, MATRIX, PAIR),
    "linear without bias": lambda x: nn.functional.linear(x, MATRIX),
    "norm": lambda x: nn.functional.layer_norm(x, (36,), *ROWS, 0.3),
    "convolution": lambda x: nn.functional.conv2d(x, KERNEL, PAIR, (2, 3), (1, 2), (2, 1)),
    "grouped convolution": lambda x: nn.functional.conv2d(torch.cat([x, x * 2], 1), GROUPS, None, 1, 1, 1, 2),
    "batched product": lambda x: torch.bmm(x[:, 0], x[:, 0].transpose(1, 2)),
    "halves": lambda x: (x.half() * 2 + x.half()).float(),
    "a half and a whole": lambda x: x.half() * 2 + x,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operator_computes_what_it_computes_in_pytorch(name: str, model: T2TViT) -> None:
    function = OPERATIONS[name]
    content = mindir_graph(Wrapped(function), job(model)).to_bytes({}, "", "")
    for count in (2, 5):
        images = torch.randn(count, 1, *SIZE, generator=torch.Generator().manual_seed(count))
        torch.testing.assert_close(computed(content, images), function(images), atol=1e-5, rtol=1e-4)


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
