import pytest
import torch
from PIL import Image

from t2t_vit import UserError, create_model
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.look import as_colours, look, rollout
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import attention_maps


def test_rollout_of_even_attention_is_even() -> None:
    weights = [torch.full((2, 5, 5), 0.2)] * 3
    torch.testing.assert_close(rollout(weights), torch.full((4,), 0.25))


def test_rollout_follows_the_path_through_the_blocks() -> None:
    """The class token looks at token 2 in the second block, and token 2 at token 1 in the first."""
    first, second = torch.eye(4), torch.eye(4)
    first[2] = torch.tensor([0.0, 1, 0, 0])
    second[0] = torch.tensor([0.0, 0, 1, 0])
    by_hand = ((torch.eye(4) + second) / 2 @ ((torch.eye(4) + first) / 2))[0, 1:]
    shares = rollout([first[None], second[None]])
    torch.testing.assert_close(shares, by_hand / by_hand.sum())
    assert shares.tolist() == [0.5, 0.5, 0.0]
    steps = (torch.eye(4) + second) / 2 @ ((torch.eye(4) + first) / 2)
    mean = steps[1:, 1:].mean(dim=0)
    torch.testing.assert_close(rollout([first[None], second[None]], "avg"), mean / mean.sum())
    with pytest.raises(UserError, match="the head sees all tokens"):
        rollout([first[None]], "")


@pytest.mark.parametrize("shape", [(64, 5, 7), (3, 1, 1), (1, 4, 4), (64, 1, 2)])
def test_colours_are_a_picture(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    picture = as_colours(torch.randn(shape))
    assert picture.shape == (3, *shape[1:])
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_colours_show_the_main_difference() -> None:
    features = torch.zeros(8, 2, 4)
    features[:, :, 2:] = 1.0
    red = as_colours(features)[0]
    left, right = red[:, :2], red[:, 2:]
    torch.testing.assert_close((left - right).abs(), torch.ones(2, 2))
    torch.testing.assert_close(left, left[:1, :1].expand(2, 2))


def test_red_is_the_direction_of_most_variance_and_what_stands_out_is_bright() -> None:
    """Far from zero, two channels vary: the second three times as much, and each has one place that stands out."""
    features = torch.full((5, 3, 4), 50.0)
    features[3, 1, 2] -= 30.0
    features[1, 0, 3] += 10.0
    red, green, _ = as_colours(features)
    expected = [torch.zeros(3, 4), torch.zeros(3, 4)]
    expected[0][1, 2] = expected[1][0, 3] = 1.0
    for colour, bright in zip((red, green), expected, strict=True):
        assert colour[bright == 1].item() == pytest.approx(1)
        assert colour[bright == 0].max() < 0.3


def test_rollout_is_the_product_of_the_blocks_means() -> None:
    torch.manual_seed(0)
    weights = [torch.rand(3, 5, 5).softmax(-1) for _ in range(4)]
    flow = torch.eye(5)
    for block in weights:
        flow = (block.mean(0) + torch.eye(5)) / 2 @ flow
    torch.testing.assert_close(rollout(weights), flow[0, 1:] / flow[0, 1:].sum())


@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_t_14", "t2t_vit_dense", "t2t_vit_c_14", "t2t_vit_s_6"])
def test_look_keeps_every_stage(arch: str) -> None:
    torch.manual_seed(0)
    model = create_model(arch, image_size=(64, 96), num_classes=3)
    predictor = TorchPredictor(model, Preprocessing((64, 96)), ("a", "b", "c"))
    picture = Image.effect_noise((200, 100), 90).convert("RGB")
    seen = look(predictor, picture)
    rows, columns = 64 // model.variant.strides[-1], 96 // model.variant.strides[-1]
    assert (rows, columns) == ((8, 12) if arch == "t2t_vit_s_6" else (4, 6)) == tuple(seen.rollout.shape)
    sizes = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), (rows, columns)]
    assert [tuple(stage.shape[1:]) for stage in seen.stages] == sizes
    assert seen.rollout.sum().item() == pytest.approx(1)
    normalised = predictor.preprocessing.normalize(seen.image[None])
    with torch.no_grad(), attention_maps(model) as maps:
        model(normalised)
        fine, coarse, tokens = model.tokens_to_token.stages(normalised)
    for stage, expected in zip(seen.stages, (fine[0], coarse[0]), strict=False):
        torch.testing.assert_close(stage, expected, atol=1e-4, rtol=1e-4)
    for row, column in ((0, 0), (0, 5), (2, 1), (3, 5)):
        torch.testing.assert_close(
            seen.stages[2][:, row, column], tokens[0, columns * row + column], atol=1e-4, rtol=1e-4
        )
    torch.testing.assert_close(seen.rollout.flatten(), rollout(weights[0] for weights in maps.values()))
    assert seen.prediction == predictor.predict(picture)


def test_a_head_on_the_mean_of_the_tokens_looks_elsewhere() -> None:
    torch.manual_seed(0)
    seen = []
    for global_pool in ("token", "avg"):
        model = create_model("t2t_vit_7", image_size=64, num_classes=3, global_pool=global_pool)
        seen.append(look(TorchPredictor(model, Preprocessing((64, 64)), None), Image.new("RGB", (64, 64), "orange")))
    assert [one.rollout.sum().item() for one in seen] == pytest.approx([1, 1])
    assert (seen[0].rollout - seen[1].rollout).abs().max() > 1e-3


def test_stages_of_a_network_that_was_changed_on_the_way_are_refused() -> None:
    model = create_model("t2t_vit_7", image_size=32, num_classes=3)
    predictor = TorchPredictor(model, Preprocessing((32, 32)), None)
    model.tokens_to_token.register_forward_hook(lambda _, __, tokens: tokens * 2)
    with pytest.raises(UserError, match="tokens_to_token has a hook"):
        look(predictor, Image.new("RGB", (64, 64), "orange"))
