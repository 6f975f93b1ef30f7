"""Products in float32 out of bfloat16 ones, beside float64 and beside torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops import native
from t2t_vit.ops.native.library import has_tiles
from t2t_vit.ops.native.linear import NARROW

# Elsewhere the kernels say why they cannot run, and tests/ops/native/test_library.py sees to that.
HERE = native.unavailable() is None and has_tiles()
SIZES = [(1, 1, 1), (37, 147, 64), (33, 64, 1000), (100, 45, 10), (64, 32, 32), (197, 384, 1152), (1576, 1152, 384)]


pytestmark = pytest.mark.usefixtures("threads")


def law(ours: Tensor, theirs: Tensor, exact: Tensor, slack: float = 0.0) -> None:
    """As exact as torch's float32: the error's norm at most 1.2 times theirs and a rounding of the answer's."""
    assert (ours - exact).norm() <= 1.2 * (theirs - exact).norm() + 1.2e-7 * exact.norm() + slack


def test_only_wide_float32_weights_are_for_them() -> None:
    wide = torch.empty(NARROW, NARROW)
    assert native.multiplies(wide) == HERE
    assert not native.multiplies(wide.bfloat16())
    assert not native.multiplies(wide.double())
    assert not native.multiplies(wide[1:])


@pytest.mark.parametrize(("rows", "depth", "columns"), SIZES)
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh"])
def test_a_layer_with_what_is_behind_it(rows: int, depth: int, columns: int, activation: str) -> None:
    if not HERE:
        return
    inputs, weight, bias = torch.randn(rows, depth), torch.randn(columns, depth) / depth**0.5, torch.randn(columns)
    residual = torch.randn(rows, columns)

    def plain(dtype: torch.dtype) -> Tensor:
        answer = F.linear(inputs.to(dtype), weight.to(dtype), bias.to(dtype))
        if activation != "none":
            answer = F.gelu(answer, approximate="tanh" if activation == "gelu_tanh" else "none")
        return answer + residual

    ours = native.native_linear(inputs, native.PartedLayer.of(weight, bias), activation, residual)
    law(ours, plain(torch.float32), plain(torch.float64), slack=1.2e-7 * ours.numel() ** 0.5)  # of GELU


@pytest.mark.parametrize(("rows", "depth", "columns"), SIZES)
@pytest.mark.parametrize("left_along", [True, False])
@pytest.mark.parametrize("right_along", [True, False])
def test_a_product_with_its_gradients(rows: int, depth: int, columns: int, left_along: bool, right_along: bool) -> None:
    if not HERE:
        return
    left = torch.randn((rows, depth) if left_along else (depth, rows))
    right = torch.randn((columns, depth) if right_along else (depth, columns))
    bias, slope = torch.randn(columns), torch.randn(rows, columns)

    def results(dtype: torch.dtype, ours: bool) -> list[Tensor]:
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (left, right, bias)]
        a, b, added = leaves
        if ours:
            answer = native.native_product(a, b, added, left_along=left_along, right_along=right_along)
        else:
            answer = (a if left_along else a.t()) @ (b.t() if right_along else b) + added
        return [answer.detach(), *torch.autograd.grad(answer, leaves, slope.to(dtype))]

    for ours, theirs, exact in zip(
        results(torch.float32, True), results(torch.float32, False), results(torch.float64, False), strict=True
    ):
        law(ours, theirs, exact)


def test_gradients_have_gradients() -> None:
    if not HERE:
        return
    left, right = torch.randn(5, 7, requires_grad=True), torch.randn(7, 3, requires_grad=True)

    def second(product: Tensor) -> list[Tensor]:
        [slope] = torch.autograd.grad(product.square().sum(), left, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), (left, right)))

    for ours, theirs in zip(second(native.native_product(left, right)), second(left @ right), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_the_number_of_threads_and_rows_beside_change_nothing() -> None:
    if not HERE:
        return
    left, right = torch.randn(300, 200), torch.randn(200, 250)
    answer = native.native_product(left, right)
    assert torch.equal(native.native_product(left[70:131], right), answer[70:131])
    torch.set_num_threads(1)
    assert torch.equal(native.native_product(left, right), answer)


@pytest.mark.parametrize("size", [1e-18, 1e-12, 1e12, 1e18])
def test_small_and_large_numbers(size: float) -> None:
    if not HERE:
        return
    left, right = torch.randn(40, 50) * size, torch.randn(50, 60)
    exact = left.double() @ right.double()
    law(native.native_product(left, right), left @ right, exact)
    law(native.native_product(right.t().contiguous(), left.t().contiguous()), right.t() @ left.t(), exact.t())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_finite_behind_it(value: float) -> None:
    if not HERE:
        return
    left, right = torch.randn(40, 50), torch.randn(50, 60)
    left[7, 11] = value
    rows = native.native_product(left, right).isfinite().all(1)
    assert rows.tolist() == [row != 7 for row in range(40)]


def test_what_does_not_fit_is_refused() -> None:
    if not HERE:
        return
    left, right = torch.randn(5, 7), torch.randn(7, 3)
    layer = native.PartedLayer.of(torch.randn(3, 7), None)
    for wrong in (
        lambda: native.native_product(left, torch.randn(8, 3)),
        lambda: native.native_product(left, right, torch.randn(4)),
        lambda: native.native_product(left, right, torch.randn(3).double()),
        lambda: native.native_product(left.bfloat16(), right),
        lambda: native.native_linear(torch.randn(5, 8), layer),
        lambda: native.native_linear(left.bfloat16(), layer),
        lambda: native.native_linear(left, layer, residual=torch.randn(5, 4)),
    ):
        with pytest.raises(RuntimeError, match="do not fit"):
            wrong()


@pytest.mark.parametrize(("rows", "depth", "columns"), [(0, 7, 3), (5, 0, 3), (5, 7, 0)])
def test_nothing_to_multiply(rows: int, depth: int, columns: int) -> None:
    if not HERE:
        return
    leaves = [torch.randn(rows, depth), torch.randn(depth, columns), torch.randn(columns)]
    left, right, bias = (leaf.requires_grad_() for leaf in leaves)
    answer = native.native_product(left, right, bias)
    torch.testing.assert_close(answer, left @ right + bias)
    ours = torch.autograd.grad(answer.sum(), (left, right, bias))
    theirs = torch.autograd.grad((left @ right + bias).sum(), (left, right, bias))
    torch.testing.assert_close(ours, theirs)


def test_a_default_device_elsewhere_does_not_matter() -> None:
    if not HERE:
        return
    weight, inputs = torch.randn(64, 32), torch.randn(5, 32)
    with torch.device("meta"):
        layer = native.PartedLayer.of(weight, None)
        answer = native.native_linear(inputs, layer)
    torch.testing.assert_close(answer, inputs @ weight.t())


def test_whole_numbers_are_exact() -> None:
    """As they are in float32: nothing of 24 bits is lost."""
    if not HERE:
        return
    left = torch.tensor([[16_777_215.0, 1.0, -16_777_213.0]])
    assert native.native_product(left, torch.eye(3)).tolist() == left.tolist()


# opcheck's own look at gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_it_is_an_operation_of_torchs() -> None:
    if not HERE:
        return
    left, right, bias = torch.randn(5, 7), torch.randn(3, 7), torch.randn(3)
    leaves = tuple(tensor.requires_grad_() for tensor in (left, right, bias))
    torch.library.opcheck(torch.ops.t2t_vit.native_product.default, (leaves[0], True, leaves[1], True, leaves[2]))
