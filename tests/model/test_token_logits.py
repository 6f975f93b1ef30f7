"""Answers for each token: the network as it is trained by token labels, and as it teaches them."""

import pytest
import torch

from t2t_vit.fast.packing import pack
from t2t_vit.model import T2TViT, create_model
from t2t_vit.model.token_logits import TokenLogits, TokenMixing, token_logits
from t2t_vit.variants import VARIANTS


def network(name: str = "t2t_vit_quickstart", size: int = 28) -> T2TViT:
    torch.manual_seed(0)
    return create_model(name, num_classes=5, image_size=size).eval()


@pytest.mark.parametrize("name", ["t2t_vit_quickstart", "t2t_vit_7", "t2t_vit_dense", "t2t_vit_c_14", "t2t_vit_s_6"])
def test_the_first_is_the_networks_answer_and_the_others_are_its_head_on_each_token(name: str) -> None:
    model = network(name, 32)
    images = torch.randn(2, 3, 32, 32)
    answers = TokenLogits(model)(images)
    torch.testing.assert_close(answers[:, 0], model(images))
    tokens = model.forward_features(images)
    torch.testing.assert_close(answers[:, 1:], model.head(tokens[:, 1:]))
    rows, columns = VARIANTS[name].grids((32, 32))[-1]
    assert answers.shape == (2, 1 + rows * columns, 5)


def test_a_network_of_pooled_tokens_answers_for_the_image_by_its_pool() -> None:
    model = create_model("t2t_vit_quickstart", num_classes=5, image_size=28, global_pool="avg").eval()
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(token_logits(model, model.forward_features(images))[:, 0], model(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_network_answers_for_its_tokens_too(dtype: torch.dtype) -> None:
    model, images = network(), torch.randn(2, 3, 28, 28)
    packed = pack(model, dtype)
    expected = TokenLogits(model)(images).detach()
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(packed.token_logits(images).float(), expected, **tolerance)
    torch.testing.assert_close(packed(images).float(), expected[:, 0], **tolerance)


def test_no_weight_is_added() -> None:
    model = network()
    keys = list(model.state_dict())
    wrapped = TokenLogits(model)
    assert [name.removeprefix("network.") for name in wrapped.state_dict()] == keys == list(model.state_dict())


def test_tokens_of_the_box_are_the_neighbours_and_the_last_of_three_keeps_its_own() -> None:
    mixing = TokenMixing(lambda *_: torch.tensor([False, True, True, False]))
    mixing.begin((2, 2), 0, 0)
    tokens = torch.arange(12.0).view(3, 4, 1)
    found = mixing.tokens(tokens).squeeze(2).tolist()
    assert found == [[0, 5, 6, 3], [4, 1, 2, 7], [8, 9, 10, 11]]
    targets = torch.eye(3)
    torch.testing.assert_close(mixing.targets(targets), torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]))


def test_what_is_mixed_is_what_comes_out_of_the_soft_splits() -> None:
    """All tokens taken: each image is its neighbour, also in its gradient; positions and class token are not mixed."""
    model = network()
    images = torch.randn(2, 3, 28, 28, requires_grad=True)
    mixing = TokenMixing(lambda grid, *_: torch.ones(grid[0] * grid[1], dtype=torch.bool))
    mixing.begin(model.grid, 0, 0)
    answers = TokenLogits(model, mixing.tokens)(images)
    torch.testing.assert_close(answers, TokenLogits(model)(images.flip(0)))
    answers[0].sum().backward()
    assert images.grad is not None and not images.grad[0].any() and images.grad[1].any()
