import pytest
import torch
from torch import Tensor

from performer_law import Case, check_law
from t2t_vit.errors import UserError
from t2t_vit.ops.performer import draw_features, performer_attention
from t2t_vit.ops.performer_passes import performer_passes, performer_passes_backward

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("flat", [False, True], ids=["noise", "flat"])
@pytest.mark.parametrize("tokens", [1, 7, 49, 197, 784])
def test_law(tokens: int, flat: bool, dtype: torch.dtype) -> None:
    for length in (0.0, 0.5, 1.0, 30.0):
        check_law(Case(2, tokens, length=length, flat=flat, dtype=dtype), "cpu", draws=1 if tokens > 500 else 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_law_for_a_thousand_images(dtype: torch.dtype) -> None:
    check_law(Case(1000, 3, 16, 8, 20, dtype=dtype), "cpu")


def test_gradients_by_differences() -> None:
    packed, features, _ = Case(2, 5, 6, 4, 3, dtype=torch.float64, length=0.7).draw()

    def attend(packed: Tensor) -> Tensor:
        queries, keys, values = packed.split([6, 6, 3], dim=-1)
        return performer_attention(queries, keys, values, features, "cpu")

    assert torch.autograd.gradcheck(attend, packed.requires_grad_())


# opcheck's own look at gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_is_a_good_operator() -> None:
    """Schema, fakes and registration of gradients, with strided inputs; inputs are not changed."""
    packed, features, grads = Case(2, 5, 16, 8, 16).draw()
    k, q, v = (part.contiguous().requires_grad_() for part in packed.chunk(3, dim=-1))
    torch.library.opcheck(performer_passes, (q, k, v, features))
    k, q, v = packed.chunk(3, dim=-1)
    torch.library.opcheck(performer_passes, (q, k, v, features))
    kept = performer_passes(q, k, v, features)[1:]
    torch.library.opcheck(performer_passes_backward, (grads, q, k, v, features, *kept))


def test_one_node_in_a_compiled_graph() -> None:
    nodes: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        nodes.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    def attend(packed: Tensor, kernels: str) -> Tensor:
        keys, queries, values = packed.chunk(3, dim=-1)
        return performer_attention(queries, keys, values, features, kernels)

    packed, features, _ = Case(2, 5, 16, 8, 16).draw()
    compiled = torch.compile(attend, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(packed, "cpu"), attend(packed, "cpu"))
    assert sum("performer" in node for node in nodes) == 1
    nodes.clear()
    # What torch.compile can join itself, it is given.
    compiled(packed, "auto")
    assert not any("performer" in node for node in nodes)


def test_what_is_exported_is_plain() -> None:
    class Attention(torch.nn.Module):
        def forward(self, packed: Tensor) -> Tensor:
            return performer_attention(*packed.chunk(3, dim=-1), features, kernels="cpu")

    packed, features, _ = Case(2, 5, 16, 8, 16).draw()
    program = torch.export.export(Attention(), (packed,))
    assert not any("t2t_vit" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(packed), Attention()(packed))


def test_only_the_reference_trains_features() -> None:
    packed, _, _ = Case(2, 5, 16, 8, 16).draw()
    k, q, v = packed.chunk(3, dim=-1)
    features = draw_features(8, 16).requires_grad_()
    performer_attention(q, k, v, features).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().max() > 0
    with pytest.raises(UserError, match="as frozen"):
        performer_attention(q, k, v, features, "cpu")
    with torch.no_grad():
        performer_attention(q, k, v, features, "cpu")


def test_autocast_changes_no_gradient() -> None:
    packed, features, grads = Case(2, 9, 16, 8, 16).draw()
    found = []
    for enabled in (False, True):
        leaf = packed.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            keys, queries, values = leaf.chunk(3, dim=-1)
            performer_attention(queries, keys, values, features, "cpu").backward(grads)
        assert leaf.grad is not None
        found.append(leaf.grad)
    assert torch.equal(*found)
