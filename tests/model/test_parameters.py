"""What is frozen gets no gradient and gives the same features in every pass."""

import copy

import pytest
import torch

from t2t_vit import create_model
from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT


def network(arch: str = "t2t_vit_quickstart") -> T2TViT:
    torch.manual_seed(0)
    return create_model(arch, num_classes=3, image_size=28, drop=0.3, drop_path=0.3, performer_drop=0.3)


def learning(model: T2TViT) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("what", "frozen"),
    [
        ("", ()),
        ("tokens", ("tokens_to_token.", "cls_token")),
        ("2", ("tokens_to_token.", "cls_token", "blocks.0.", "blocks.1.")),
        ("backbone", ("tokens_to_token.", "cls_token", "blocks.", "norm.")),
    ],
)
def test_exactly_what_is_named(what: str, frozen: tuple[str, ...]) -> None:
    model = network()
    model.freeze(what)
    expected = {name for name, _ in model.named_parameters() if not name.startswith(frozen)}
    assert learning(model) == expected
    model.train()(torch.randn(2, 3, 28, 28)).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == expected


def test_frozen_parts_drop_nothing_even_after_train() -> None:
    model = network()
    model.freeze("backbone")
    images = torch.randn(4, 3, 28, 28)
    model.train()
    assert torch.equal(model(images), model(images))
    assert torch.equal(model(images), copy.deepcopy(model).train()(images))
    model.freeze("tokens")
    assert model.blocks.training
    assert not torch.equal(model(images), model(images))
    assert not any(module.training for module in model.tokens_to_token.modules())
    model.freeze("")
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_all_blocks_leave_the_last_norm_and_the_head() -> None:
    model = network()
    model.freeze(str(len(model.blocks)))
    assert learning(model) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_what_there_is_not() -> None:
    model = network()
    depth = len(model.blocks)
    with pytest.raises(UserError, match=f"freeze {depth + 1}: the network has {depth} blocks"):
        model.freeze(str(depth + 1))
    with pytest.raises(UserError, match="freeze 'head' is not known"):
        model.freeze("head")
    assert len(learning(model)) == len(list(model.parameters()))
