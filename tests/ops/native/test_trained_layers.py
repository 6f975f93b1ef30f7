"""The layers of a block that have a gradient, beside float64 and beside torch under autocast."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops import native
from t2t_vit.ops.native.library import has_tiles

# Elsewhere nobody asks for them; see tests/model/test_trained_block.py.
TILES = native.unavailable() is None and has_tiles()
EPS = 1e-5
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda inputs: inputs,
    "gelu": F.gelu,
    "gelu_tanh": lambda inputs: F.gelu(inputs, approximate="tanh"),
}
Form = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """And the same numbers each time: of few of them the greatest error is a matter of luck."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def answer_and_gradients(form: Form, given: list[Tensor], slope: Tensor) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    answer = form(*leaves)
    return [answer.detach(), *torch.autograd.grad(answer, leaves, slope.to(answer.dtype))]


def hold_to_the_law(ours: Form, plain: Form, given: list[Tensor], slope: Tensor) -> None:
    """err(ours) <= 2 err(torch under autocast) + 1e-6 for the answer and each gradient."""
    found = answer_and_gradients(ours, given, slope)
    exact = answer_and_gradients(plain, [tensor.double() for tensor in given], slope)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = answer_and_gradients(plain, given, slope)
    for mine, other, right in zip(found, theirs, exact, strict=True):
        assert mine.isfinite().all()
        assert (mine - right).abs().max() <= 2 * (other - right).abs().max() + 1e-6


def norm_linear_case(batch: int, length: int, width: int, out: int, biased: bool) -> tuple[Form, Form, list[Tensor]]:
    given = [torch.randn(batch, length, width), torch.randn(width), torch.randn(width)]
    given += [torch.randn(out, width) / width**0.5] + ([torch.randn(out)] if biased else [])

    def ours(
        tokens: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        return native.trainable_norm_linear(tokens, norm_weight, norm_bias, EPS, weight, bias)

    def plain(
        tokens: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        return F.linear(F.layer_norm(tokens, (width,), norm_weight, norm_bias, EPS), weight, bias)

    return ours, plain, given


def linear_add_case(
    batch: int, length: int, width: int, out: int, activation: str, shares: Tensor | None
) -> tuple[Form, Form, list[Tensor]]:
    given = [torch.randn(batch, length, width).mul(3).bfloat16(), torch.randn(batch, length, out)]
    given += [torch.randn(out, width) / width**0.5, torch.randn(out)]

    def ours(inputs: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return native.trainable_linear_add(inputs, residual, weight, bias, shares, activation)

    def plain(inputs: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        answer = F.linear(ACTIVATIONS[activation](inputs), weight, bias)
        return residual + (answer if shares is None else answer * shares.view(-1, 1, 1).to(answer.dtype))

    return ours, plain, given


@pytest.mark.parametrize("strength", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(
    ("batch", "length", "width", "out", "biased"),
    [(8, 197, 384, 1152, False), (2, 50, 64, 96, True), (1, 3, 32, 32, True), (3, 257, 448, 64, True)],
)
def test_norm_and_linear(batch: int, length: int, width: int, out: int, biased: bool, strength: float) -> None:
    if not TILES:
        return
    ours, plain, given = norm_linear_case(batch, length, width, out, biased)
    given[0] *= strength
    hold_to_the_law(ours, plain, given, torch.randn(batch, length, out).bfloat16())


def test_flat_tokens() -> None:
    if not TILES:
        return
    ours, plain, given = norm_linear_case(2, 197, 384, 64, True)
    given[0].fill_(0.7)
    hold_to_the_law(ours, plain, given, torch.randn(2, 197, 64).bfloat16())


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("batch", "length", "width", "out"), [(8, 197, 1152, 384), (2, 50, 64, 96), (1, 3, 32, 32), (3, 257, 448, 64)]
)
def test_linear_and_residual(batch: int, length: int, width: int, out: int, activation: str, drops: bool) -> None:
    if not TILES:
        return
    shares = (torch.rand(batch) > 0.3).float() / 0.7 if drops else None
    ours, plain, given = linear_add_case(batch, length, width, out, activation, shares)
    hold_to_the_law(ours, plain, given, torch.randn(batch, length, out))


def test_gelus_and_their_slopes_where_they_bend_and_far_out() -> None:
    if not TILES:
        return
    near, far = torch.linspace(-8, 8, 1024), torch.linspace(-1e4, 1e4, 1024)
    inputs = torch.cat([near, far]).view(1, 64, 32)
    for activation in ("gelu", "gelu_tanh"):
        ours, plain, given = linear_add_case(1, 64, 32, 32, activation, None)
        given[0], given[2] = inputs.bfloat16(), torch.eye(32)
        hold_to_the_law(ours, plain, given, torch.ones(1, 64, 32))


def test_the_number_of_threads_changes_no_bit() -> None:
    if not TILES:
        return
    cases = [
        norm_linear_case(3, 197, 384, 448, True),
        linear_add_case(3, 197, 448, 416, "gelu", torch.tensor([0.0, 2.0, 2.0])),
    ]
    for ours, _, given in cases:
        slope = torch.randn(3, 197, given[3 if len(given) == 5 else 2].shape[0])
        found = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            found.append(answer_and_gradients(ours, given, slope))
        for one, two, again in zip(*found, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(two, again)


def test_rows_that_lie_apart() -> None:
    if not TILES:
        return
    ours, plain, given = norm_linear_case(2, 10, 64, 32, True)
    given[0] = torch.randn(10, 2, 64).transpose(0, 1)
    hold_to_the_law(ours, plain, given, torch.randn(10, 2, 32).transpose(0, 1).bfloat16())
    ours, plain, given = linear_add_case(2, 10, 64, 32, "gelu", None)
    given[1] = torch.randn(10, 2, 32).transpose(0, 1)
    hold_to_the_law(ours, plain, given, torch.randn(10, 2, 32).transpose(0, 1))


def test_what_is_not_a_number_comes_out() -> None:
    if not TILES:
        return
    for ours, _, given in (norm_linear_case(1, 3, 32, 32, True), linear_add_case(1, 3, 32, 32, "gelu", None)):
        given[0][0, 1, 5] = torch.nan
        answer, gradient = answer_and_gradients(ours, given, torch.ones(1, 3, 32))[:2]
        assert answer[0, 1].isnan().all()
        assert gradient[0, 1].isnan().any()
        assert answer[0, [0, 2]].isfinite().all()
        assert gradient[0, [0, 2]].isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    if not TILES:
        return
    norm, tokens, hidden = torch.ones(64), torch.randn(2, 5, 64), torch.randn(2, 5, 96).bfloat16()
    weight, second, bias = torch.randn(96, 64), torch.randn(64, 96), torch.zeros(64)
    for wrong in (
        lambda: native.trainable_norm_linear(torch.randn(2, 5, 96), norm, norm, EPS, weight, None),
        lambda: native.trainable_norm_linear(tokens, torch.ones(32), norm, EPS, weight, None),
        lambda: native.trainable_norm_linear(tokens, norm, norm, EPS, weight, bias),
        lambda: native.trainable_norm_linear(tokens.double(), norm, norm, EPS, weight, None),
        lambda: native.trainable_norm_linear(tokens[..., :48], norm[:48], norm[:48], EPS, weight[:, :48], None),
        lambda: native.trainable_linear_add(hidden, tokens[:1], second, bias, None, "gelu"),
        lambda: native.trainable_linear_add(hidden.float(), tokens, second, bias, None, "gelu"),
        lambda: native.trainable_linear_add(hidden, tokens, second, torch.zeros(96), None, "gelu"),
        lambda: native.trainable_linear_add(hidden, tokens, second, bias, torch.ones(3), "gelu"),
    ):
        with pytest.raises(RuntimeError, match="do not fit"):
            wrong()


def test_no_images() -> None:
    if not TILES:
        return
    tokens, norm = torch.randn(0, 5, 64, requires_grad=True), torch.ones(64)
    weight, second = torch.randn(96, 64, requires_grad=True), torch.randn(64, 96, requires_grad=True)
    hidden = native.trainable_norm_linear(tokens, norm, norm, EPS, weight, None)
    answer = native.trainable_linear_add(hidden, tokens, second, torch.zeros(64), None, "gelu")
    assert answer.shape == tokens.shape
    for gradient in torch.autograd.grad(answer.sum(), (tokens, weight, second)):
        assert not gradient.any()
    mixed = native.trainable_attention(torch.randn(0, 5, 3 * 64).bfloat16().requires_grad_(), 2, 0.1)
    assert mixed.shape == (0, 5, 64)
    mixed.sum().backward()


def test_parameters_that_lie_apart() -> None:
    if not TILES:
        return
    tokens, weight = torch.randn(2, 5, 64), torch.randn(96, 64)
    norm, shift, bias = torch.randn(128)[::2], torch.randn(1).expand(64), torch.randn(1).expand(96)
    apart = native.trainable_norm_linear(tokens, norm, shift, EPS, weight, bias)
    beside = native.trainable_norm_linear(tokens, norm.contiguous(), shift.contiguous(), EPS, weight, bias.contiguous())
    assert torch.equal(apart, beside)
    hidden, second, shares = apart.detach(), torch.randn(64, 96), torch.ones(1).expand(2)
    apart = native.trainable_linear_add(hidden, tokens, second, shift, shares, "gelu")
    assert torch.equal(apart, native.trainable_linear_add(hidden, tokens, second, shift.clone(), None, "gelu"))


# opcheck's own look at gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_they_are_operations_of_torchs() -> None:
    if not TILES:
        return
    operations = torch.ops.t2t_vit
    _, _, given = norm_linear_case(2, 5, 32, 64, True)
    leaves = [tensor.requires_grad_() for tensor in given]
    torch.library.opcheck(operations.native_norm_linear.default, (*leaves[:3], EPS, *leaves[3:]))
    torch.library.opcheck(operations.native_norm_linear.default, (*leaves[:3], EPS, leaves[3], None))
    _, _, given = linear_add_case(2, 5, 32, 64, "gelu", None)
    leaves = [tensor.requires_grad_() for tensor in given]
    torch.library.opcheck(operations.native_linear_add.default, (*leaves, torch.ones(2), "gelu"))
    torch.library.opcheck(operations.native_linear_add.default, (*leaves, None, "none"))
