import pytest
import torch
from torch import nn

from t2t_vit import UserError, attention_maps, create_model
from t2t_vit.model.backbone import Attention
from t2t_vit.ops.attention import split_heads

ARCHS = ["t2t_vit_7", "t2t_vit_t_14", "t2t_vit_14_resnext", "t2t_vit_14_se", "t2t_vit_dense", "t2t_vit_16_ghost"]


@pytest.mark.parametrize("arch", ARCHS)
def test_weights_explain_the_output_of_attention(arch: str) -> None:
    model, images = create_model(arch, image_size=(32, 64)).eval(), torch.randn(2, 3, 32, 64)
    seen = {}
    attn = model.blocks[0].attn
    attn.register_forward_pre_hook(lambda _, inputs: seen.update(tokens=inputs[0]))
    with attention_maps(model, [0, "attention2"]) as maps:
        logits = model(images)
    assert torch.equal(logits, model(images))
    weights, (_, _, v) = maps[0], attn.queries_keys_values(seen["tokens"]).chunk(3, dim=-1)
    assert weights.shape == (2, attn.heads, 9, 9)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, attn.heads, 9))
    mixed = (weights @ split_heads(v, attn.heads)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixed, attn.mix(seen["tokens"]), atol=1e-6, rtol=1e-4)
    assert maps["attention2"].shape == (2, 1, 32, 32)
    assert maps["attention2"].min() >= 0


def test_hooks_are_gone_afterwards() -> None:
    model, images = create_model("t2t_vit_7", image_size=32).eval(), torch.randn(1, 3, 32, 32)
    with attention_maps(model) as maps:
        model(images)
    assert list(maps) == list(range(7))
    before = maps[0].clone()
    model(images * 2)
    assert torch.equal(maps[0], before)
    with pytest.raises(ZeroDivisionError), attention_maps(model, [-1]):
        raise ZeroDivisionError
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_all_maps_of_the_dense_network_are_of_blocks() -> None:
    model = create_model("t2t_vit_dense", image_size=32).eval()
    with attention_maps(model) as maps:
        model(torch.randn(1, 3, 32, 32))
    assert len(maps) == 19


@pytest.mark.parametrize(
    ("arch", "place", "message"),
    [
        ("t2t_vit_7", 7, "no block 7: 0 to 6"),
        ("t2t_vit_7", "attention3", "no block 'attention3'"),
        ("t2t_vit_dense", 3, "no attention at 3"),
        ("t2t_vit_c_14", "attention1", "no attention at 'attention1'"),
    ],
)
def test_places_without_attention(arch: str, place: int | str, message: str) -> None:
    model = create_model(arch, image_size=32)
    with pytest.raises(UserError, match=message), attention_maps(model, [place]):
        pass


class Other(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens


class Halved(Attention):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) / 2


class Described(Halved):
    def weights(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().weights(tokens) / 2


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (Other(), "the attention at 2 is a Other without a method weights"),
        (Halved(256, 4, 0.0), "is a Halved that computes attention in its own way"),
    ],
)
def test_attention_that_does_not_say_what_it_looks_at(replacement: nn.Module, message: str) -> None:
    model = create_model("t2t_vit_7", image_size=32).eval()
    model.blocks[2].attn = replacement
    with pytest.raises(UserError, match=message), attention_maps(model):
        pass
    assert not any(module._forward_pre_hooks for module in model.modules())
    with attention_maps(model, [0, -1]) as maps:
        model(torch.randn(1, 3, 32, 32))
    assert list(maps) == [0, -1]


def test_attention_that_was_patched_or_described_by_its_own_class() -> None:
    model = create_model("t2t_vit_7", image_size=32).eval()
    model.blocks[2].attn.forward = lambda tokens: tokens
    with pytest.raises(UserError, match="with its own forward"), attention_maps(model, [2]):
        pass
    model.blocks[2].attn = Described(256, 4, 0.0)
    with attention_maps(model, [2]) as maps:
        model(torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(maps[2].sum(dim=-1), torch.full((1, 4, 5), 0.5))


def test_a_block_without_attention_is_not_left_out_in_silence() -> None:
    model = create_model("t2t_vit_7", image_size=32).eval()
    model.blocks[2] = nn.Identity()
    with pytest.raises(UserError, match="no attention at 2"), attention_maps(model):
        pass


def test_inner_attention_of_a_stage() -> None:
    model = create_model("t2t_vit_t_14", image_size=32).eval()
    model.tokens_to_token.attention1.attn = Other()
    with pytest.raises(UserError, match="the attention at 'attention1' is a Other"):
        attention_maps(model, ["attention1"]).__enter__()


def test_an_adapter_of_the_projection_is_seen() -> None:
    model, images = create_model("t2t_vit_7", image_size=32).eval(), torch.randn(1, 3, 32, 32)
    with attention_maps(model, [0]) as before:
        model(images)
    model.blocks[0].attn.qkv = nn.Sequential(model.blocks[0].attn.qkv, nn.Linear(768, 768))
    with attention_maps(model, [0]) as after:
        model(images)
    assert (before[0] - after[0]).abs().max() > 1e-3
