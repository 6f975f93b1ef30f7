import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from t2t_vit import T2TViT, UserError, create_model, list_models
from t2t_vit.model.backbone import (
    Attention,
    Block,
    DenseBlock,
    GhostAttention,
    GhostMlp,
    Mlp,
    SEAttention,
    Transition,
)
from t2t_vit.model.drop import DropBlock, DropPath
from t2t_vit.model.inputs import sinusoid_table
from t2t_vit.model.tokens_to_token import (
    ConvolutionTokens,
    StemTokens,
    TokenPerformer,
    TokensToToken,
    TokenTransformer,
    restructure,
)
from t2t_vit.variants import VARIANTS

WITH_OTHER_BLOCKS = ["t2t_vit_14_se", "t2t_vit_dense", "t2t_vit_16_ghost", "t2t_vit_c_14", "t2t_vit_s_6"]
LAYERS = {
    "mlp": (lambda: Mlp(24, 48, 0.1, False), (2, 9, 24), (2, 9, 24)),
    "block": (lambda: Block(24, Attention(24, 3, 0.1), Mlp(24, 48, 0.1, False), 0.1), (2, 9, 24), (2, 9, 24)),
    "se attention": (lambda: SEAttention(32, 4, 0.1), (2, 9, 32), (2, 9, 32)),
    "ghost attention": (lambda: GhostAttention(24, 3, 0.1), (2, 9, 24), (2, 9, 24)),
    "ghost mlp": (lambda: GhostMlp(24, 0.1, False), (2, 9, 24), (2, 9, 24)),
    "dense block": (
        lambda: DenseBlock(24, Attention(24, 3, 0.1), Mlp(24, 48, 0.1, False), 0.1, 16),
        (2, 9, 24),
        (2, 9, 40),
    ),
    "transition": (lambda: Transition(24, False), (2, 9, 24), (2, 9, 12)),
    "convolution tokens": (
        lambda: ConvolutionTokens(VARIANTS["t2t_vit_c_14"], 3, drop_block=0.1),
        (2, 3, 32, 48),
        (2, 6, 384),
    ),
    "stem tokens": (
        lambda: StemTokens(VARIANTS["t2t_vit_s_6"], 3, drop_block=0.1, approximate_gelu=False),
        (2, 3, 32, 48),
        (2, 24, 128),
    ),
    "performer": (lambda: TokenPerformer(27, 16, 0.1, False), (2, 9, 27), (2, 9, 16)),
    "transformer": (lambda: TokenTransformer(27, 16, False), (2, 9, 27), (2, 9, 16)),
    "tokens_to_token": (
        lambda: TokensToToken(VARIANTS["t2t_vit_7"], 3, drop_block=0.1, performer_drop=0.1, approximate_gelu=False),
        (2, 3, 32, 48),
        (2, 6, 256),
    ),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, tuple[int, ...]]:
    make, given, wanted = LAYERS[request.param]
    torch.manual_seed(0)
    return make(), torch.randn(given), wanted


def test_layer_shape(layer: tuple[nn.Module, Tensor, tuple[int, ...]]) -> None:
    module, inputs, wanted = layer
    assert module(inputs).shape == wanted


def test_layer_gradient_reaches_every_parameter(layer: tuple[nn.Module, Tensor, tuple[int, ...]]) -> None:
    module, inputs, _ = layer
    module.eval()(inputs).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_layer_is_deterministic_in_eval_mode(layer: tuple[nn.Module, Tensor, tuple[int, ...]]) -> None:
    module, inputs, _ = layer
    module.eval()
    assert torch.equal(module(inputs), module(inputs))


@pytest.mark.parametrize("name", list_models())
def test_every_variant_runs_forward_and_backward(name: str) -> None:
    model = create_model(name, num_classes=7, image_size=32)
    images = torch.randn(2, 3, 32, 32)
    logits = model(images)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [(32, 32), (56, 112), (100, 227), (96, 160)])
def test_any_size_by_the_formula(size: tuple[int, int]) -> None:
    model = create_model("t2t_vit_7", num_classes=5, image_size=size)
    first = [(side + 1) // 4 for side in size]
    expected = tuple(math.ceil(math.ceil(side / 2) / 2) for side in first)
    assert model.grid == expected
    assert model.pos_embed.shape == (1, expected[0] * expected[1] + 1, 256)
    assert model(torch.randn(1, 3, *size)).shape == (1, 5)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(channels: int) -> None:
    model = create_model("t2t_vit_t_14", num_classes=5, in_chans=channels, image_size=32)
    assert model(torch.randn(2, channels, 32, 32)).shape == (2, 5)


def test_wrong_image_size_is_refused() -> None:
    model = create_model("t2t_vit_7", image_size=32)
    with pytest.raises(ValueError, match=r"built for images of \(3, 32, 32\), got \(3, 48, 48\)"):
        model(torch.zeros(1, 3, 48, 48))


def test_too_small_image_and_unknown_name() -> None:
    with pytest.raises(UserError, match="too small"):
        create_model("t2t_vit_7", image_size=2)
    with pytest.raises(UserError, match="did you mean 't2t_vit_t_14'"):
        create_model("t2t_vit_t14")
    with pytest.raises(UserError, match="at least 1"):
        create_model("t2t_vit_7", num_classes=0)


def test_sinusoid_against_numpy() -> None:
    table = np.array([[p / np.power(10000, 2 * (i // 2) / 10) for i in range(10)] for p in range(7)])
    table[:, 0::2], table[:, 1::2] = np.sin(table[:, 0::2]), np.cos(table[:, 1::2])
    np.testing.assert_array_equal(sinusoid_table(7, 10)[0].numpy(), table.astype(np.float32))


def test_restructure_puts_tokens_in_their_places() -> None:
    tokens = torch.arange(6.0).view(1, 6, 1)
    assert torch.equal(restructure(tokens, (2, 3))[0, 0], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))


def test_only_what_learns_is_a_parameter() -> None:
    model = create_model("t2t_vit_7", image_size=32)
    assert {name for name, _ in model.named_buffers()} == {
        "pos_embed",
        "tokens_to_token.attention1.w",
        "tokens_to_token.attention2.w",
    }
    assert model.no_weight_decay() == {"cls_token"}


def test_initialisation() -> None:
    model = create_model("t2t_vit_14", image_size=64)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert parameter.eq(1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(4000, 3, 2))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])


def test_drop_block_drops_squares_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = DropBlock(0.1)(torch.ones(20, 8, 28, 28))
    assert out.mean().item() == pytest.approx(1, abs=1e-4)
    assert out.eq(0).float().mean().item() == pytest.approx(0.1, abs=0.03)
    zeros = out[0].eq(0).float()
    eroded = -torch.nn.functional.max_pool2d(-zeros, 7, 1)
    assert eroded.sum() > 0, "no whole 7 x 7 square is zero"


@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_t_14"])
def test_dropouts_have_an_effect_only_in_training(arch: str) -> None:
    images = torch.randn(2, 3, 64, 64)
    for option in ("drop", "drop_path", "drop_block"):
        torch.manual_seed(0)
        model = create_model(arch, image_size=64, num_classes=5, performer_drop=0.0, **{option: 0.3})
        assert not torch.equal(model(images), model(images)), option
        model.eval()
        assert torch.equal(model(images), model(images)), option


def test_performer_drop_is_reachable() -> None:
    images = torch.randn(2, 3, 64, 64)
    assert not torch.equal((m := create_model("t2t_vit_7", image_size=64))(images), m(images))
    assert torch.equal((m := create_model("t2t_vit_7", image_size=64, performer_drop=0.0))(images), m(images))


def test_gelu_is_exact_unless_asked() -> None:
    torch.manual_seed(0)
    exact = create_model("t2t_vit_7", image_size=32).eval()
    tanh = create_model("t2t_vit_7", image_size=32, approximate_gelu=True).eval()
    tanh.load_state_dict(exact.state_dict())
    difference = (exact(images := torch.randn(1, 3, 32, 32)) - tanh(images)).abs().max()
    assert 0 < difference < 1e-2


def shallow(arch: str, **drops: float) -> T2TViT:
    """The network with two blocks: what is traced block by block takes its time."""
    row = VARIANTS[arch]
    row = replace(row, depth=2, stages=(1, 1) if row.stages else ())
    options = {"drop": 0.0, "drop_path": 0.0, "drop_block": 0.0, "performer_drop": 0.1} | drops
    return T2TViT(row, arch, num_classes=5, in_chans=3, image_size=(32, 64), approximate_gelu=False, **options)


@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_t_14", *WITH_OTHER_BLOCKS])
def test_exports_whole_with_a_dynamic_batch(arch: str) -> None:
    model = shallow(arch).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 3, 32, 64),), dynamic_shapes=({0: batch},))
    images = torch.randn(3, 3, 32, 64)
    torch.testing.assert_close(program.module()(images), model(images), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "arch",
    ["t2t_vit_7", *(pytest.param(arch, marks=pytest.mark.thorough) for arch in ("t2t_vit_t_14", *WITH_OTHER_BLOCKS))],
)
def test_traces_as_one_graph(arch: str, checkpointing: bool) -> None:
    """`fullgraph` makes a graph break an error; the trace is run as it is, so that no compiler is needed."""
    torch.compiler.reset()  # the traces of other variants count towards the limit
    model = shallow(arch, drop=0.1, drop_path=0.1, drop_block=0.1)
    model.set_grad_checkpointing(checkpointing)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(torch.randn(2, 3, 32, 64)).sum().backward()
    if not checkpointing:
        with torch.autocast("cpu", torch.bfloat16):
            assert compiled(torch.randn(2, 3, 32, 64)).dtype == torch.bfloat16
