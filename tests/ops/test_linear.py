"""Which product a linear layer takes."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from t2t_vit import create_model
from t2t_vit.model.linear import Choosing, Linear
from t2t_vit.ops import linear as ops
from t2t_vit.ops import native


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the products that went to the kernels, which are taken to be here."""
    calls: list[tuple[int, ...]] = []

    def product(left: Tensor, right: Tensor, bias: Tensor | None, *, right_along: bool) -> Tensor:
        assert right_along
        calls.append((*left.shape, len(right)))
        return F.linear(left, right, bias)

    monkeypatch.setattr(ops, "native_product", product)
    monkeypatch.setattr(ops, "_multiplies", lambda weight: weight.dtype is torch.float32 and min(weight.shape) >= 128)
    return calls


def test_wide_layers_in_float32(counted: list[tuple[int, ...]]) -> None:
    layer = Linear(256, 512)
    inputs = torch.randn(2, 40, 256)
    torch.testing.assert_close(layer(inputs), F.linear(inputs, layer.weight, layer.bias))
    assert counted == [(80, 256, 512)]


@pytest.mark.parametrize("kernels", ["reference", "cpu", "triton"])
def test_every_name_but_auto_is_torchs(counted: list[tuple[int, ...]], kernels: str) -> None:
    layer = Linear(256, 512)
    layer.kernels = kernels
    layer(torch.randn(80, 256))
    assert not counted


def test_what_is_small_narrow_or_in_another_precision_is_torchs(counted: list[tuple[int, ...]]) -> None:
    Linear(256, 512)(torch.randn(8, 256))
    Linear(64, 512)(torch.randn(800, 64))
    Linear(256, 512).double()(torch.randn(80, 256).double())
    Linear(256, 512).bfloat16()(torch.randn(80, 256).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear(256, 512)(torch.randn(80, 256)).dtype is torch.bfloat16
    assert Linear(256, 512).to("meta")(torch.randn(80, 256, device="meta")).shape == (80, 512)
    assert not counted


@pytest.mark.parametrize(
    "transform",
    [
        lambda layer, inputs: torch.func.vmap(layer)(inputs),
        lambda layer, inputs: torch.func.jvp(layer, (inputs,), (inputs,)),
        lambda layer, inputs: torch.export.export(layer, (inputs,)).module()(inputs),
        lambda layer, inputs: torch.jit.trace(layer, inputs, check_trace=False)(inputs),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_transformed_and_exported_it_is_torchs(
    counted: list[tuple[int, ...]], transform: Callable[[nn.Module, Tensor], object]
) -> None:
    transform(Linear(256, 512).requires_grad_(False), torch.randn(80, 256))
    assert not counted


def test_the_networks_layers_are_told() -> None:
    named = create_model("t2t_vit_quickstart", kernels="reference")
    chosen = {module.kernels for module in named.modules() if isinstance(module, Choosing)}
    assert chosen == {"reference"}
    assert {module.kernels for module in create_model("t2t_vit_7").modules() if isinstance(module, Choosing)} == {
        "auto"
    }


def test_a_network_trains_by_them_as_by_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of a wide network on this machine, whichever kernels it has."""
    calls = []

    def product(*inputs: Tensor, right_along: bool) -> Tensor:
        calls.append(1)
        return native.native_product(*inputs, right_along=right_along)

    monkeypatch.setattr(ops, "native_product", product)
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([1, 3])
    first = create_model("t2t_vit_14", num_classes=5, image_size=64, drop_path=0.0, performer_drop=0.0)
    other = create_model(
        "t2t_vit_14", num_classes=5, image_size=64, drop_path=0.0, performer_drop=0.0, kernels="reference"
    )
    other.load_state_dict(first.state_dict())
    for model in (first, other):
        F.cross_entropy(model(images), targets).backward()
    assert len(calls) == (
        42 if native.multiplies(torch.empty(384, 384)) else 0
    )  # of 14 blocks; projections are too small here
    for (name, ours), theirs in zip(first.named_parameters(), other.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm(), name


class Quantised(Tensor):
    """A weight that only says float32."""


def test_what_only_looks_like_float32_is_torchs(counted: list[tuple[int, ...]]) -> None:
    layer = Linear(256, 512)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised))
    layer(torch.randn(80, 256))
    Linear(256, 512)(torch.randn(80, 256).as_subclass(Quantised))
    assert not counted


def test_counters_see_the_products() -> None:
    def counted_flops(kernels: str) -> int:
        layer = Linear(256, 512)
        layer.kernels = kernels
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(800, 256)).sum().backward()
        return counter.get_total_flops()

    assert counted_flops("auto") == counted_flops("reference") > 0


@pytest.mark.parametrize(("inputs", "bias"), [((80, 300), (512,)), ((80, 256), (100,))])
def test_shapes_that_do_not_fit_are_torchs_to_refuse(inputs: tuple[int, ...], bias: tuple[int, ...]) -> None:
    layer = Linear(256, 512)
    layer.bias = nn.Parameter(torch.zeros(bias))
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied|must match|expanded size"):
        layer(torch.randn(inputs))


def test_a_compiled_layer_is_one_graph_for_all_batches() -> None:
    layer = Linear(256, 256)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=keep, fullgraph=True, dynamic=True)
    for rows in (2, 3, 5, 900):
        inputs = torch.randn(rows, 256)
        torch.testing.assert_close(compiled(inputs), F.linear(inputs, layer.weight, layer.bias))
    assert len(graphs) == 1
    called = {str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"}
    assert any("native_product" in name for name in called) == native.multiplies(layer.weight)
