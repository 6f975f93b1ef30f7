"""Each compiled kernel beside float64, and beside what torch computes in the same precision."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2t_vit.fast import native
from t2t_vit.ops.performer import EPSILON, draw_features, performer_attention

DTYPES = (torch.float32, torch.bfloat16)


at_each_level = pytest.mark.usefixtures("threads", "kernels")
by_vectors = pytest.mark.usefixtures("threads", "vectors")  # the same at each level


def law(ours: Tensor, theirs: Tensor, exact: Tensor, slack: float = 1e-6) -> None:
    """err(ours) <= 2 err(theirs) + slack."""
    assert ours.isfinite().all()
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max() + slack


def spread_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)


@at_each_level
@pytest.mark.parametrize("strength", [0.0, 1.0, 30.0])
@pytest.mark.parametrize(
    ("batch", "length", "heads", "dim"),
    [(8, 197, 6, 64), (1, 1, 1, 32), (2, 16, 3, 64), (3, 50, 4, 96), (1, 784, 1, 64), (2, 257, 2, 128), (40, 5, 2, 32)],
)
def test_attention(batch: int, length: int, heads: int, dim: int, strength: float) -> None:
    assert native.can_attend(dim, torch.bfloat16)
    qkv = (torch.randn(batch, length, 3 * heads * dim) * strength).bfloat16()
    exact = spread_attention(qkv.double(), heads, dim**-0.5)
    law(native.native_attention(qkv, heads, dim**-0.5), spread_attention(qkv, heads, dim**-0.5), exact)


@at_each_level
@pytest.mark.parametrize(("batch", "length", "heads", "dim"), [(2, 197, 3, 64), (1, 1, 1, 32), (3, 300, 2, 96)])
def test_attention_from_tokens_on(batch: int, length: int, heads: int, dim: int) -> None:
    width = heads * dim
    norm, qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width, bias=False)
    nn.init.normal_(norm.weight)
    network = nn.Sequential(norm, qkv).bfloat16().requires_grad_(False)
    tokens = (3 * torch.randn(batch, length, width)).bfloat16()
    layer = native.NativeLayer.of(qkv.weight, None)
    exact = spread_attention(copy.deepcopy(network).double()(tokens.double()), heads, dim**-0.5)
    theirs = spread_attention(network(tokens), heads, dim**-0.5)
    law(native.native_mix(tokens, norm, layer, heads, dim**-0.5), theirs, exact)


@at_each_level
@pytest.mark.parametrize("part", ["queries", "keys", "values"])
def test_attention_shows_what_is_not_a_number(part: str) -> None:
    """Broken weights have to be seen."""
    place = ["queries", "keys", "values"].index(part)
    qkv = torch.randn(1, 40, 3 * 64).bfloat16()
    qkv[0, 7, place * 64 + 5] = torch.nan
    out = native.native_attention(qkv, 1, 0.125)
    assert out[0, 7].isnan().any()
    assert out.isnan().any(dim=2).all() == (part != "queries")


@by_vectors
@pytest.mark.parametrize("part", ["queries", "keys", "values"])
def test_performer_attention_shows_what_is_not_a_number(part: str) -> None:
    place = ["queries", "keys", "values"].index(part)
    kqv = torch.randn(1, 300, 3 * 32)
    kqv[0, 7, [1, 0, 2][place] * 32 + 5] = torch.nan
    out = native.native_performer(kqv, draw_features(16, 32).t().contiguous(), EPSILON)
    assert out[0, 7].isnan().any()
    assert out.isnan().any(dim=2).all() == (part != "queries")


@at_each_level
def test_attention_takes_only_what_it_was_written_for() -> None:
    assert not native.can_attend(12, torch.bfloat16)
    assert not native.can_attend(64, torch.float32)
    assert native.can_attend(64, torch.bfloat16)


IMAGES = {
    "noise": torch.randn,
    "black": lambda *size: torch.full(size, -1.0),
    "white": lambda *size: torch.full(size, 2.64),
    "flat": lambda *size: torch.randn(size[0], size[1], 1, 1).expand(size),
    "nearly flat": lambda *size: 0.7 + 1e-4 * torch.randn(*size),
}


@by_vectors
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "split"), [((2, 3, 37, 41), (7, 4, 2)), ((1, 1, 28, 28), (7, 2, 3)), ((3, 64, 9, 14), (3, 2, 1))]
)
def test_windows(size: tuple[int, int, int, int], split: tuple[int, int, int], dtype: torch.dtype, image: str) -> None:
    features = IMAGES[image](*size)
    kernel, stride, padding = split

    def torchs(features: Tensor, eps: float | None) -> Tensor:
        tokens = F.unfold(features, kernel, stride=stride, padding=padding).transpose(1, 2)
        tokens = tokens if eps is None else F.layer_norm(tokens, tokens.shape[-1:], eps=eps)
        return tokens.unflatten(2, (-1, kernel, kernel)).movedim(2, -1).flatten(2)

    long = -(-size[1] * kernel**2 // 32) * 32
    for eps in (None, 1e-5):
        exact, theirs = torchs(features.double(), eps), torchs(features, eps).to(dtype)
        for given in (features, features.contiguous(memory_format=torch.channels_last)):
            tokens = native.native_windows(given, split, long, dtype, eps)
            law(tokens[..., : exact.shape[2]], theirs, exact)
            assert not tokens[..., exact.shape[2] :].any()
    if dtype is torch.bfloat16:
        low = features.bfloat16()
        law(
            native.native_windows(low, split, long, dtype, None)[..., : exact.shape[2]],
            torchs(low, None),
            torchs(low.double(), None),
        )


@by_vectors
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "length", "dim"), [(3, 300, 64), (1, 1, 64), (2, 7, 32), (1, 784, 64), (50, 9, 32)])
def test_performer(batch: int, length: int, dim: int, dtype: torch.dtype, strength: float) -> None:
    assert native.can_run_performer(dim, dim // 2, dtype)
    kqv = (torch.randn(batch, length, 3 * dim) * strength).to(dtype)
    features = draw_features(dim // 2, dim)
    k, q, v = kqv.chunk(3, dim=-1)
    exact = performer_attention(q.double(), k.double(), v.double(), features.double())
    theirs = performer_attention(q, k, v, features)
    law(native.native_performer(kqv, features.t().contiguous(), EPSILON), theirs, exact)


@by_vectors
def test_performer_goes_to_zero_where_keys_are_long() -> None:
    """The denominator's epsilon is live."""
    kqv, features = 20 * torch.ones(1, 40, 192), draw_features(32, 64)
    assert native.native_performer(kqv, features.t().contiguous(), EPSILON).abs().max() < 1e-6


@at_each_level
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("strength", [1.0, 30.0])
@pytest.mark.parametrize(("rows", "width", "middle"), [(1, 32, 64), (33, 64, 64), (131, 64, 96), (400, 384, 1152)])
def test_tail(rows: int, width: int, middle: int, strength: float, approximate: str) -> None:
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    network = nn.ModuleList([nn.Linear(width, width), norm, nn.Linear(width, middle), nn.Linear(middle, width)])
    network.bfloat16().requires_grad_(False)
    assert native.can_run_tail(*(network[place].weight for place in (0, 2, 3)))
    mixed = (torch.randn(2, rows, width) * strength).bfloat16()
    residual = torch.randn(2, rows, 3 * width).bfloat16()[..., width : 2 * width]

    def torchs(network: nn.ModuleList, mixed: Tensor, residual: Tensor) -> Tensor:
        proj, norm, fc1, fc2 = network
        tokens = residual + proj(mixed)
        return tokens + fc2(F.gelu(fc1(norm(tokens)), approximate=approximate))

    proj, norm, fc1, fc2 = network
    layers = [native.NativeLayer.of(layer.weight, layer.bias) for layer in (proj, fc1, fc2)]
    activation = "gelu" if approximate == "none" else "gelu_tanh"
    ours = native.native_tail(mixed, residual, norm, tuple(layers), activation)
    exact = torchs(copy.deepcopy(network).double(), mixed.double(), residual.double())
    law(ours, torchs(network, mixed, residual), exact)


@at_each_level
def test_gelu_is_exact_to_bfloat16() -> None:
    """fc1 as the identity, the others 0: what comes out is the residual and nothing more; then fc2 as the identity."""
    width = 32
    eye, none, ones = torch.eye(width), torch.zeros(width), torch.zeros(width, width)
    norm = nn.LayerNorm(width).bfloat16().requires_grad_(False)
    values = torch.linspace(-9, 9, 500)
    for activation, approximate in (("gelu", "none"), ("gelu_tanh", "tanh")):
        for bias in values.split(width)[:15]:
            layers = tuple(
                native.NativeLayer.of(weight.bfloat16(), shift)
                for weight, shift in ((ones, none), (ones, bias), (eye, none))
            )
            still = torch.zeros(1, 1, width).bfloat16()
            ours = native.native_tail(still, still, norm, layers, activation).flatten().double()  # type: ignore[arg-type]
            exact = F.gelu(bias.double(), approximate=approximate)
            assert ((ours - exact).abs() <= 2**-8 * exact.abs() + 6e-5).all()
