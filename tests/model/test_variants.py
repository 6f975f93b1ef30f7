"""The rows of the table, against the figures of the authors' own constructors."""

import pytest
import torch
import torch.nn.functional as F

from t2t_vit import UserError, create_model, list_models
from t2t_vit.model.backbone import CheapOperation
from t2t_vit.variants import VARIANTS

# Every value of the state dict at 224 pixels and 1000 classes, frozen ones included.
PARAMETERS = {
    "t2t_vit_7": 4_310_222,
    "t2t_vit_10": 5_889_230,
    "t2t_vit_12": 6_941_902,
    "t2t_vit_14": 21_545_550,
    "t2t_vit_19": 39_177_422,
    "t2t_vit_24": 64_105_934,
    "t2t_vit_t_14": 21_541_070,
    "t2t_vit_t_19": 39_172_942,
    "t2t_vit_t_24": 64_101_454,
    "t2t_vit_14_resnext": 21_545_550,
    "t2t_vit_14_wide": 25_156_302,
    "t2t_vit_14_se": 21_803_598,
    "t2t_vit_dense": 23_647_062,
    "t2t_vit_16_ghost": 16_253_262,
    "t2t_vit_c_14": 21_421_992,
}
# Ours, whose figures nobody else has: what is trained of them, in millions.
MILLIONS = {
    "t2t_vit_4": 1.29,
    "t2t_vit_quickstart": 1.29,
    "t2t_vit_s_4": 0.76,
    "t2t_vit_s_6": 1.03,
    "t2t_vit_s_8": 2.68,
    "t2t_vit_s_12": 6.70,
}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == count


def test_the_table_is_whole() -> None:
    assert set(PARAMETERS) | set(MILLIONS) == set(list_models())


@pytest.mark.parametrize(("name", "millions"), MILLIONS.items())
def test_networks_for_small_images(name: str, millions: float) -> None:
    """What they have to learn, for 10 classes at each end of the sizes that they are for; heads of 64 features."""
    for size in (28, 64):
        with torch.device("meta"):
            model = create_model(name, num_classes=10, image_size=size)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    assert VARIANTS[name].dim == 64 * VARIANTS[name].heads


def test_convolution_tokens_learn_21_35_million() -> None:
    with torch.device("meta"):
        model = create_model("t2t_vit_c_14")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 21.35


def test_widths_of_the_dense_network() -> None:
    widths = VARIANTS["t2t_vit_dense"].widths
    first, second = (192, 256, 320, 160), (224, 288, 352, 416, 480, 544, 272)
    third, last = (336, 400, 464, 528, 592, 656, 328), (392, 456, 520, 584)
    assert widths == (*first, *second, *third, *last)
    assert VARIANTS["t2t_vit_14"].widths == (384,) * 14
    assert VARIANTS["t2t_vit_14"].strides == (4, 8, 16)
    assert VARIANTS["t2t_vit_quickstart"].strides == (2, 4, 8)


def test_drop_path_of_the_dense_network_rises_by_stage() -> None:
    model = create_model("t2t_vit_dense", image_size=32, drop_path=0.11)
    rates = [block.drop_path1.rate for block in model.blocks if hasattr(block, "attn")]
    assert rates == pytest.approx([0.0] * 3 + [0.01] * 6 + [0.02] * 6 + [0.03] * 4)


def test_a_cheap_operation_is_a_depthwise_convolution_of_length_one() -> None:
    operation, tokens = CheapOperation(6), torch.randn(2, 5, 6)
    convolution = torch.nn.Conv1d(6, 6, 1, groups=6, bias=False)
    convolution.load_state_dict(operation.state_dict())
    torch.testing.assert_close(operation(tokens), convolution(tokens.transpose(1, 2)).transpose(1, 2))


def test_convolution_tokens_are_linear_in_the_image() -> None:
    tokens = create_model("t2t_vit_c_14", image_size=32).tokens_to_token.eval()
    first, second = torch.randn(2, 1, 3, 32, 32)
    torch.testing.assert_close(
        tokens(first + second) + tokens(torch.zeros_like(first)), tokens(first) + tokens(second), atol=1e-4, rtol=1e-4
    )


def test_stem_tokens_are_three_convolutions_with_layer_norm_and_gelu_between() -> None:
    tokens = create_model("t2t_vit_s_6", image_size=32).tokens_to_token.eval()
    images = torch.randn(2, 3, 32, 40)
    features = images
    for name, stride, padding in (("stage0", 2, 3), ("stage1", 2, 1)):
        stage = tokens.get_submodule(name)
        features = F.conv2d(features, stage.conv.weight, stage.conv.bias, stride, padding)
        centred = features - features.mean(1, keepdim=True)
        features = centred / (features.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        features = features * stage.norm.weight.view(-1, 1, 1) + stage.norm.bias.view(-1, 1, 1)
        features = features * (1 + torch.erf(features / 2**0.5)) / 2
        torch.testing.assert_close(tokens.stages(images)[int(name[-1])], features, atol=1e-5, rtol=1e-4)
    assert features.shape == (2, 128, 8, 10)
    expected = F.conv2d(features, tokens.project.weight, tokens.project.bias, 2, 1).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens(images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", list_models())
def test_weights_lie_in_memory_as_their_checkpoints_do(name: str) -> None:
    """Fused optimizers walk raw memory: weights in another order than their restored moments would be lost on them."""
    with torch.device("meta"):
        model = create_model(name, image_size=32)
    assert all(weight.is_contiguous() for weight in model.parameters())


@pytest.mark.parametrize("name", list_models())
def test_a_new_head_has_the_right_width(name: str) -> None:
    model = create_model(name, num_classes=3, image_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    model.reset_classifier(7)
    assert model.get_classifier().weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert (model(images).shape, model.num_classes) == ((2, 7), 7)
    model.reset_classifier(0)
    assert torch.equal(model(images), features)
    assert features.shape == (2, model.num_features)


def test_pools() -> None:
    model = create_model("t2t_vit_7", num_classes=3, image_size=32).eval()
    images = torch.randn(1, 3, 32, 32)
    tokens = model.forward_features(images)
    assert torch.equal(model(images), model.head(tokens[:, 0]))
    model.reset_classifier(3, "avg")
    assert torch.equal(model(images), model.head(tokens[:, 1:].mean(dim=1)))
    model.reset_classifier(0, "")
    assert torch.equal(model(images), tokens)
    model.global_pool = "max"
    with pytest.raises(UserError, match="global_pool 'max' is not known"):
        model(images)
