"""Products in float32 out of bfloat16 ones, beside float64 and beside torch's."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.fast import native
from t2t_vit.fast.native.linear import NARROW

SIZES = [(1, 1, 1), (37, 147, 64), (33, 64, 1000), (100, 45, 10), (64, 32, 32), (197, 384, 1152), (1576, 1152, 384)]


for_tiles = pytest.mark.usefixtures("threads", "tiles")


def law(ours: Tensor, theirs: Tensor, exact: Tensor, slack: float = 0.0) -> None:
    """As exact as torch's float32: the error's norm at most 1.2 times theirs and a rounding of the answer's."""
    assert (ours - exact).norm() <= 1.2 * (theirs - exact).norm() + 1.2e-7 * exact.norm() + slack


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """left right for (rows, depth) and (depth, columns)."""
    return native.native_linear(left, native.PartedLayer.of(right.t(), None))


@for_tiles
def test_only_wide_float32_weights_are_for_them() -> None:
    wide = torch.empty(NARROW, NARROW)
    assert native.can_multiply_float32(wide)
    assert not native.can_multiply_float32(wide.bfloat16())
    assert not native.can_multiply_float32(wide.double())
    assert not native.can_multiply_float32(wide[1:])


@pytest.mark.parametrize("level", ["none", "avx512_bf16"])
def test_elsewhere_torchs_products_are_faster(level: str, at_level: Callable[[str], None]) -> None:
    at_level(level)
    assert not native.can_multiply_float32(torch.empty(NARROW, NARROW))


@for_tiles
@pytest.mark.parametrize(("rows", "depth", "columns"), SIZES)
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh"])
def test_a_layer_with_what_is_behind_it(rows: int, depth: int, columns: int, activation: str) -> None:
    inputs, weight, bias = torch.randn(rows, depth), torch.randn(columns, depth) / depth**0.5, torch.randn(columns)
    residual = torch.randn(rows, columns)

    def plain(dtype: torch.dtype) -> Tensor:
        answer = F.linear(inputs.to(dtype), weight.to(dtype), bias.to(dtype))
        if activation != "none":
            answer = F.gelu(answer, approximate="tanh" if activation == "gelu_tanh" else "none")
        return answer + residual

    ours = native.native_linear(inputs, native.PartedLayer.of(weight, bias), activation, residual)
    law(ours, plain(torch.float32), plain(torch.float64), slack=1.2e-7 * ours.numel() ** 0.5)  # of GELU


@for_tiles
def test_the_number_of_threads_and_rows_beside_change_nothing() -> None:
    left, right = torch.randn(300, 200), torch.randn(200, 250)
    answer = multiply(left, right)
    assert torch.equal(multiply(left[70:131], right), answer[70:131])
    torch.set_num_threads(1)
    assert torch.equal(multiply(left, right), answer)


@for_tiles
@pytest.mark.parametrize("size", [1e-18, 1e-12, 1e12, 1e18])
def test_small_and_large_numbers(size: float) -> None:
    left, right = torch.randn(40, 50) * size, torch.randn(50, 60)
    exact = left.double() @ right.double()
    law(multiply(left, right), left @ right, exact)
    law(multiply(right.t(), left.t()), right.t() @ left.t(), exact.t())


@for_tiles
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_finite_behind_it(value: float) -> None:
    left, right = torch.randn(40, 50), torch.randn(50, 60)
    left[7, 11] = value
    rows = multiply(left, right).isfinite().all(1)
    assert rows.tolist() == [row != 7 for row in range(40)]


@for_tiles
def test_whole_numbers_are_exact() -> None:
    """As they are in float32: nothing of 24 bits is lost."""
    left = torch.tensor([[16_777_215.0, 1.0, -16_777_213.0]])
    assert multiply(left, torch.eye(3)).tolist() == left.tolist()


@for_tiles
def test_what_does_not_fit_is_refused() -> None:
    left = torch.randn(5, 7)
    layer = native.PartedLayer.of(torch.randn(3, 7), None)
    for wrong in (
        lambda: native.native_linear(torch.randn(5, 8), layer),
        lambda: native.native_linear(left.bfloat16(), layer),
        lambda: native.native_linear(left, layer, residual=torch.randn(5, 4)),
    ):
        with pytest.raises(RuntimeError, match="do not fit"):
            wrong()


@for_tiles
def test_a_default_device_elsewhere_does_not_matter() -> None:
    weight, inputs = torch.randn(64, 32), torch.randn(5, 32)
    with torch.device("meta"):
        layer = native.PartedLayer.of(weight, None)
        answer = native.native_linear(inputs, layer)
    torch.testing.assert_close(answer, inputs @ weight.t())
