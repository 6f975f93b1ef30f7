import pytest
import torch
from torch import Tensor

from t2t_vit.ops.attention import attention


def draw(dtype: torch.dtype, length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 3, length, 16, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def by_definition(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.softmax(scale * q @ k.transpose(2, 3), dim=-1) @ v


@pytest.mark.parametrize("matrix_unit", [True, False])
@pytest.mark.parametrize("length", [1, 17, 600])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 3e-2)])
def test_value_and_gradients(
    dtype: torch.dtype, tolerance: float, length: int, matrix_unit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the formula in float64, on processors with a matrix unit and without."""
    monkeypatch.setattr("t2t_vit.ops.attention.CPU_HAS_A_MATRIX_UNIT", matrix_unit)
    ours = draw(dtype, length)
    out = attention(*ours, 0.3)
    exact = [x.detach().double().requires_grad_() for x in ours]
    wanted = by_definition(*exact, 0.3)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), wanted, atol=tolerance, rtol=tolerance)
    out.float().square().sum().backward()
    wanted.square().sum().backward()
    for mine, theirs in zip(ours, exact, strict=True):
        scale = theirs.grad.abs().max().clamp(min=1)
        torch.testing.assert_close(mine.grad.double() / scale, theirs.grad / scale, atol=tolerance, rtol=tolerance)


def test_without_a_matrix_unit_half_precision_is_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under autocast, which would round the inputs again."""
    monkeypatch.setattr("t2t_vit.ops.attention.CPU_HAS_A_MATRIX_UNIT", False)
    q, k, v = (3 * part.detach() for part in draw(torch.bfloat16, 17))
    wanted = attention(q.float(), k.float(), v.float(), 0.25).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention(q, k, v, 0.25), wanted)


def test_autocast_keeps_the_low_precision() -> None:
    q, k, v = draw(torch.bfloat16, 17)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(q, k, v, 0.25).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("length", [3136, 9216])
def test_long_tokens_are_fused_without_a_copy(length: int, dtype: torch.dtype) -> None:
    """The token transformer's layout: one head of 64 in a tensor of 192. Weights alone would take 300 MB and more."""
    # Of fewer images FlashAttention splits the keys, to fill the device, and holds a float32 answer for each part.
    packed = torch.randn(16, length, 192, device="cuda", dtype=dtype)
    q, k, v = packed.unsqueeze(1).chunk(3, dim=-1)
    attention(q, k, v, 0.08)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = attention(q, k, v, 0.08)
    # The answer, and a number a token for the backward pass; a copy of q would be as much again.
    assert torch.cuda.max_memory_allocated() - before < 1.9 * out.nbytes
