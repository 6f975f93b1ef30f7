"""What downstream networks take: features on the way, a backbone, layer groups, gradient checkpointing."""

import pytest
import torch

from t2t_vit import FeaturesOnly, UserError, create_model
from t2t_vit.model.tokens_to_token import TokensToToken

ARCHS = ["t2t_vit_7", "t2t_vit_t_14", "t2t_vit_dense", "t2t_vit_c_14", "t2t_vit_s_6"]


def small(arch: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(arch, num_classes=3, image_size=(32, 64), **options).eval()


@pytest.mark.parametrize("arch", ARCHS)
def test_intermediates_are_those_of_the_forward_pass(arch: str) -> None:
    model, images = small(arch), torch.randn(2, 3, 32, 64)
    tokens, maps = model.forward_intermediates(images)
    assert torch.equal(tokens, model.forward_features(images))
    assert [list(one.shape) for one in maps] == [
        [2, info["num_chs"], 32 // info["reduction"], 64 // info["reduction"]] for info in model.feature_info
    ]
    for name in (info["module"] for info in model.feature_info):
        model.get_submodule(name)
    last = model.norm(torch.cat([tokens.new_zeros(2, 1, model.num_features), maps[-1].flatten(2).mT], dim=1))
    torch.testing.assert_close(last[:, 1:], tokens[:, 1:])


def test_choices_of_intermediates() -> None:
    model, images = small("t2t_vit_7"), torch.randn(2, 3, 32, 64)
    _, all_of_them = model.forward_intermediates(images)
    chosen = model.forward_intermediates(images, [-1, 0, 3], intermediates_only=True)
    for one, index in zip(chosen, (-1, 0, 3), strict=True):
        assert torch.equal(one, all_of_them[index])
    last = model.forward_intermediates(images, 1, output_fmt="NLC", norm=True, output_dict=True)
    assert torch.equal(last["image_intermediates"][0], last["image_features"][:, 1:])
    assert set(last) == {"image_intermediates", "image_features"}
    pairs = model.forward_intermediates(images, (1, 2), return_prefix_tokens=True, intermediates_only=True)
    assert pairs[0][1] is None
    assert pairs[1][1].shape == (2, 1, 256)
    calls = []
    model.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    model.forward_intermediates(images, (0, 2), stop_early=True, intermediates_only=True)
    assert calls == []


def test_wrong_choices_are_refused() -> None:
    model, images = small("t2t_vit_dense"), torch.randn(1, 3, 32, 64)
    for indices in ([24], [-25], 25, 0, []):
        with pytest.raises(UserError, match="there are 24, numbered 0 to 23"):
            model.forward_intermediates(images, indices)
    for indices in ([1.5], "0", [None]):
        with pytest.raises(UserError, match="there are 24"):
            model.forward_intermediates(images, indices)
    for layout in ("nhwc", "NHW", "", None):
        with pytest.raises(UserError, match="choose NCHW, NHWC, NLC, NCL"):
            model.forward_intermediates(images, output_fmt=layout)
        with pytest.raises(UserError, match="choose NCHW, NHWC, NLC, NCL"):
            FeaturesOnly(model, output_fmt=layout)
    with pytest.raises(UserError, match="take it with norm=False"):
        FeaturesOnly(model, [5])
    with pytest.raises(UserError, match="take it with norm=False"):
        model.forward_intermediates(images, [5], norm=True)
    with pytest.raises(ValueError, match="built for images"):
        model.forward_intermediates(images[..., :32])


@pytest.mark.parametrize("arch", ARCHS)
def test_features_only(arch: str) -> None:
    model, images = small(arch), torch.randn(2, 3, 32, 64)
    backbone = FeaturesOnly(model)
    strides, coarse = ([2, 4, 8], 128) if arch == "t2t_vit_s_6" else ([4, 8, 16], 64)
    assert backbone.strides == strides
    assert backbone.channels == [64, coarse, model.num_features]
    maps, class_token = backbone(images)
    sizes = [(32 // stride, 64 // stride) for stride in strides]
    assert [tuple(one.shape[2:]) for one in maps] == sizes
    assert [one.shape[1] for one in maps] == backbone.channels
    tokens = model.forward_features(images)
    assert torch.equal(class_token, tokens[:, 0])
    assert torch.equal(maps[2].flatten(2).mT, tokens[:, 1:])


@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_c_14", "t2t_vit_s_6"])
def test_layouts_hold_the_same_numbers(arch: str) -> None:
    model, images = small(arch), torch.randn(2, 3, 32, 64)
    to_maps = {
        "NCHW": lambda features, _: features,
        "NHWC": lambda features, _: features.permute(0, 3, 1, 2),
        "NLC": lambda features, grid: features.mT.unflatten(2, grid),
        "NCL": lambda features, grid: features.unflatten(2, grid),
    }
    expected = model.forward_intermediates(images, [0, 1, 3, -1], norm=True, intermediates_only=True)
    for layout, to_map in to_maps.items():
        backbone = FeaturesOnly(model, (0, 1, 3, -1), output_fmt=layout)
        asked = {"norm": True, "intermediates_only": True, "output_fmt": layout}
        for found in (backbone(images)[0], model.forward_intermediates(images, [0, 1, 3, -1], **asked)):
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(to_map(one, other.shape[2:]), other)


def test_pruned_to_what_is_needed() -> None:
    model, images = small("t2t_vit_7"), torch.randn(1, 3, 32, 64)
    wanted = model.forward_intermediates(images, [0, 4], intermediates_only=True)
    assert model.prune_intermediate_layers([0, 4], prune_norm=True) == [0, 4]
    assert len(model.blocks) == 3
    found = model.forward_intermediates(images, [0, 4], intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))


@pytest.mark.parametrize(
    ("arch", "last"), [("t2t_vit_7", 4), ("t2t_vit_7", 1), ("t2t_vit_dense", 4), ("t2t_vit_dense", 5)]
)
def test_a_pruned_network_describes_what_is_left(arch: str, last: int) -> None:
    model, images = small(arch), torch.randn(2, 3, 32, 64)
    expected = model.forward_intermediates(images, range(last + 1), intermediates_only=True)
    before = [dict(entry) for entry in model.feature_info]
    assert model.prune_intermediate_layers([last], prune_norm=True) == [last]
    assert model.feature_info == before[: max(last + 1, 2)]
    for entry in model.feature_info:
        model.get_submodule(entry["module"])
    width = model.feature_info[-1]["num_chs"] if last > 1 else 256
    tokens, maps = model.forward_intermediates(images)
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=False))
    assert tokens.shape == (2, 9, width)
    assert model.num_features == model.head_hidden_size == width
    assert torch.equal(model(images), tokens[:, 0])
    backbone = FeaturesOnly(model, norm=False)
    assert backbone.channels[-1] == backbone(images)[0][-1].shape[1] == model.feature_info[-1]["num_chs"]
    with pytest.raises(UserError, match="has no norm"):
        FeaturesOnly(model)
    with pytest.raises(UserError, match=f"there are {len(model.feature_info)}, numbered"):
        model.forward_intermediates(images, [last + 2])
    assert len(model.layer_groups()) == len(model.blocks) + 2
    assert model.get_classifier() is model.head
    model.reset_classifier(5)
    assert model(images).shape == (2, 5)


def test_what_pruning_leaves_fits_together() -> None:
    model, images = small("t2t_vit_dense"), torch.randn(1, 3, 32, 64)
    with pytest.raises(UserError, match="320 channels, and its head takes 584: prune with prune_head=True"):
        model.prune_intermediate_layers([4], prune_head=False)
    assert len(model.blocks) == 22 and model(images).shape == (1, 3)  # nothing was touched
    assert model.prune_intermediate_layers(1, prune_head=False) == [23]
    assert model(images).shape == (1, 3)
    tap = model.forward_intermediates(images, [4], output_fmt="NLC", intermediates_only=True)[0]
    model.prune_intermediate_layers([4])  # the norm of 584 channels cannot stay
    assert torch.equal(model.forward_features(images)[:, 1:], tap)
    kept = small("t2t_vit_7")
    logits = kept.forward_head(kept.norm(kept.forward_intermediates(images, [4], return_prefix_tokens=True)[1][0][1]))
    kept.prune_intermediate_layers([4], prune_head=False)
    torch.testing.assert_close(kept(images), logits)


def test_a_backbone_of_a_network_that_was_pruned_since() -> None:
    model, images = small("t2t_vit_7"), torch.randn(1, 3, 32, 64)
    backbone = FeaturesOnly(model)
    model.prune_intermediate_layers([4])
    with pytest.raises(UserError, match="there are 5, numbered 0 to 4"):
        backbone(images)


def test_freezing_and_pruning() -> None:
    model = small("t2t_vit_7", drop=0.5)
    model.freeze("3")
    model.prune_intermediate_layers([3], prune_norm=True)
    model.train()
    assert not any(module.training for module in model.blocks.modules() if module is not model.blocks)
    assert not any(parameter.requires_grad for parameter in model.blocks.parameters())
    assert not model.tokens_to_token.training


def test_blocks_that_were_taken_off_by_hand() -> None:
    """The intermediates are those of the blocks that are there, not of those that the table lists."""
    model = create_model("t2t_vit_7", image_size=32).eval()
    model.blocks = model.blocks[:2]
    images = torch.randn(1, 3, 32, 32)
    tokens, found = model.forward_intermediates(images, norm=True)
    assert torch.equal(tokens, model.forward_features(images))
    assert len(found) == 4
    with pytest.raises(UserError, match="there are 4, numbered 0 to 3"):
        model.forward_intermediates(images, [4])


class Twice(TokensToToken):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(images)


def test_intermediates_do_not_go_past_what_changes_the_tokens() -> None:
    model, images = small("t2t_vit_7"), torch.randn(1, 3, 32, 64)
    handle = model.tokens_to_token.register_forward_hook(lambda _, __, tokens: tokens * 2)
    with pytest.raises(UserError, match="tokens_to_token has a hook"):
        model.forward_intermediates(images)
    handle.remove()
    backbone = FeaturesOnly(model)
    model.tokens_to_token.forward = lambda images: images
    with pytest.raises(UserError, match="its own forward"):
        backbone(images)
    del model.tokens_to_token.forward
    model.tokens_to_token.__class__ = Twice
    with pytest.raises(UserError, match="its own forward"):
        backbone(images)
    model.tokens_to_token.__class__ = TokensToToken
    backbone(images)
    model.tokens_to_token = torch.nn.Sequential(torch.nn.Conv2d(3, 256, 16, 16), torch.nn.Flatten(2))
    with pytest.raises(UserError, match="tokens_to_token is a Sequential, which has no method stages"):
        backbone(images)


@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_dense"])
def test_checkpointing_changes_no_gradient(arch: str) -> None:
    images, gradients = torch.randn(2, 3, 32, 64), []
    for checkpointed in (False, True):
        model = small(arch, drop=0.1, drop_path=0.1).train()
        model.set_grad_checkpointing(checkpointed)
        torch.manual_seed(1)
        model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_checkpointing_keeps_less() -> None:
    kept = []
    for checkpointed in (False, True):
        model, total = small("t2t_vit_7"), [0]
        model.set_grad_checkpointing(checkpointed)

        def pack(tensor: torch.Tensor, total: list[int] = total) -> torch.Tensor:
            total[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(2, 3, 32, 64))
        kept.append(total[0])
    assert kept[1] < kept[0] / 4


@pytest.mark.parametrize("arch", ARCHS)
def test_layer_groups_are_timms(arch: str) -> None:
    from timm.models import group_parameters

    model = small(arch)
    groups = model.layer_groups()
    assert len(groups) == len(model.blocks) + 2
    assert sorted(name for names in groups for name in names) == sorted(name for name, _ in model.named_parameters())
    theirs = group_parameters(model, model.group_matcher())
    assert [set(names) for names in theirs.values()] == [set(names) for names in groups]
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 3


def test_a_new_head_is_like_the_rest_of_the_network() -> None:
    model = small("t2t_vit_7").to(torch.bfloat16)
    model.reset_classifier(5, "avg")
    assert (model.head.weight.dtype, model.head.training, model.global_pool) == (torch.bfloat16, False, "avg")
    for change, message in (
        ({"num_classes": -1}, "at least 1 class"),
        ({"num_classes": 3, "global_pool": "max"}, "max"),
    ):
        with pytest.raises(UserError, match=message):
            model.reset_classifier(**change)
    assert (model.num_classes, model.global_pool, model.head.out_features) == (5, "avg", 5)  # nothing was touched


@pytest.mark.parametrize("size", [(32, 64, 3), 32.5, (32.5, 64), "32", None])
def test_what_is_no_size(size: object) -> None:
    with pytest.raises(UserError, match="is neither a side nor"):
        small("t2t_vit_7").set_input_size(size)
