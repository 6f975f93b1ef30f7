"""The head of weights whose classes are others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t2t_vit import create_model
from t2t_vit.cli.build import start_from
from t2t_vit.model import T2TViT
from t2t_vit.weights import Weights


def network(classes: int, seed: int) -> T2TViT:
    torch.manual_seed(seed)
    return create_model("t2t_vit_quickstart", num_classes=classes, image_size=28)


@pytest.fixture
def weights() -> Weights:
    model = network(3, 0)
    with torch.no_grad():
        model.head.bias.copy_(torch.arange(3.0) + 1)
    return Weights(Path("w.ckpt"), model.state_dict(), classes=("cat", "dog", "eel"))


def test_the_same_classes_keep_the_head(weights: Weights) -> None:
    model = network(3, 1)
    (told,) = start_from(model, weights, ("cat", "dog", "eel"))
    assert "newly" not in told
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in model.state_dict().items())


def test_other_classes_of_the_same_number_get_a_new_head(weights: Weights) -> None:
    model, fresh = network(3, 1), network(3, 1)
    told = start_from(model, weights, ("ant", "bee", "fly"))
    assert told[1] == "the head is new: ant, bee, fly"
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert torch.equal(model.cls_token, weights.tensors["cls_token"])


def test_classes_that_are_there_again_keep_their_rows(weights: Weights) -> None:
    model, fresh = network(4, 1), network(4, 1)
    told = start_from(model, weights, ("ant", "cat", "eel", "fly"))
    assert told[1] == "the head keeps 2 of its 3 classes and is new for ant, fly"
    assert model.head.bias.tolist() == [0.0, 1.0, 3.0, 0.0]
    assert torch.equal(model.head.weight[[1, 2]], weights.tensors["head.weight"][[0, 2]])
    assert torch.equal(model.head.weight[[0, 3]], fresh.head.weight[[0, 3]])


def test_a_head_without_names_is_kept_where_the_counts_agree(weights: Weights) -> None:
    nameless = replace(weights, classes=None)
    model = network(3, 1)
    start_from(model, nameless, ("ant", "bee", "fly"))
    assert model.head.bias.tolist() == [1.0, 2.0, 3.0]
    (told,) = start_from(network(2, 1), nameless, ("ant", "bee"))
    assert "head.weight, head.bias newly initialised" in told
