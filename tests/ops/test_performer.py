import math

import pytest
import torch
from torch import Tensor

from t2t_vit.ops.performer import draw_features, performer_attention


def by_definition(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """The formula as the paper writes it, in float64, where nothing overflows."""
    q, k, v, w = (x.double() for x in (q, k, v, w))
    root = math.sqrt(len(w))

    def phi(u: Tensor) -> Tensor:
        return torch.exp(u @ w.t() - u.square().sum(-1, keepdim=True) / 2) / root

    weights = phi(q) @ phi(k).transpose(1, 2)
    return weights @ v / (weights.sum(2, keepdim=True) + 1e-8)


def draw(scale: float, tokens: int = 50, dim: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(3, tokens, dim, generator=generator) for _ in range(3))
    return q * scale, k * scale, v, draw_features(dim // 2, dim)


@pytest.mark.parametrize("scale", [0.0, 0.1, 0.5, 1.0, 2.0, 4.0])
def test_agrees_with_the_definition(scale: float) -> None:
    """At scale 2 the epsilon outweighs the kernel, so this holds only if its meaning is kept."""
    q, k, v, w = draw(scale)
    torch.testing.assert_close(
        performer_attention(q, k, v, w).double(), by_definition(q, k, v, w), atol=2e-6, rtol=1e-4
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 30.0, 1000.0])
def test_gradients_agree_and_stay_finite(scale: float) -> None:
    q, k, v, w = draw(scale)
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    performer_attention(*inputs, w).square().sum().backward()
    exact = [x.clone().requires_grad_() for x in (q, k, v)]
    by_definition(*exact, w).square().sum().backward()
    for ours, theirs in zip(inputs, exact, strict=True):
        assert ours.grad is not None
        assert ours.grad.isfinite().all()
        if scale <= 1:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_large_activations_is_finite(dtype: torch.dtype) -> None:
    """The authors' form gives NaN here: 1e-8 is zero in float16."""
    q, k, v, w = (x.to(dtype) for x in draw(20.0))
    with torch.autocast("cpu", dtype):
        out = performer_attention(q, k, v, w)
    assert out.dtype == dtype
    assert out.isfinite().all()


def test_autocast_changes_nothing() -> None:
    q, k, v, w = draw(0.5)
    with torch.autocast("cpu", torch.bfloat16):
        under = performer_attention(q, k, v, w)
    assert torch.equal(under, performer_attention(q, k, v, w))


def test_features_are_orthogonal_rows_of_length_sqrt_m() -> None:
    w = draw_features(32, 64)
    torch.testing.assert_close(w @ w.t(), 32 * torch.eye(32), atol=1e-4, rtol=0)


def test_features_get_a_gradient_where_they_are_to_be_trained() -> None:
    q, k, v, w = (part.double().requires_grad_() for part in draw(0.5, tokens=5, dim=4))
    assert torch.autograd.gradcheck(performer_attention, (q, k, v, w))
    assert torch.autograd.gradgradcheck(performer_attention, (q, k, v, w))


def test_transformed_functions_see_plain_operations() -> None:
    """One image at a time by vmap is the batch; what is exported names no operation of ours."""
    q, k, v, w = draw(0.5)
    alone = torch.vmap(lambda *image: performer_attention(*(part[None] for part in image), w)[0])(q, k, v)
    torch.testing.assert_close(alone, performer_attention(q, k, v, w))

    class Attention(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return performer_attention(q, k, v, w)

    program = torch.export.export(Attention(), (q, k, v))
    assert not any("t2t_vit" in str(node.target) for node in program.graph.nodes)
