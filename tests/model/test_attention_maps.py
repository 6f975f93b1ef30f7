import pytest
import torch

from t2t_vit import UserError, attention_maps, create_model
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
