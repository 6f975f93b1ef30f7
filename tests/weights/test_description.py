"""The network that tensors belong to, read off their names and shapes."""

from pathlib import Path

import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.model import create_model
from t2t_vit.variants import VARIANTS
from t2t_vit.weights import Weights, checkpoint_config, describe


def state(arch: str, **options: object) -> dict[str, torch.Tensor]:
    return create_model(arch, **options).state_dict()  # type: ignore[arg-type]


@pytest.mark.parametrize("arch", VARIANTS)
def test_every_variant_is_told_from_all_others(arch: str) -> None:
    found = describe(state(arch, num_classes=5, in_chans=1), "w.pth")
    # The heads of resnext have no trace in names and shapes: only --arch tells it from t2t_vit_14.
    twins = ("t2t_vit_14", "t2t_vit_14_resnext")
    assert found.fitting == (twins if arch in twins else (arch,))
    assert (found.num_classes, found.in_chans, found.image_size) == (5, 1, (224, 224))


@pytest.mark.parametrize(("arch", "size"), [("t2t_vit_7", 384), ("t2t_vit_7", 32), ("t2t_vit_quickstart", 32)])
def test_the_image_size_is_read_off_the_positions(arch: str, size: int) -> None:
    assert describe(state(arch, image_size=size), "w.pth").image_size == (size, size)


def test_a_grid_that_is_no_square_and_a_missing_head() -> None:
    tensors = state("t2t_vit_7", image_size=(64, 96))
    del tensors["head.weight"], tensors["head.bias"]
    found = describe(tensors, "w.pth")
    assert found.image_size is None and found.num_classes is None
    assert "image_size" not in checkpoint_config(Weights(Path("w.pth"), tensors))


def test_the_configuration_says_which_of_two_sizes_it_is() -> None:
    """Sixteen positions are 4 x 4 or 2 x 8."""
    tensors = state("t2t_vit_7", image_size=(32, 128))
    assert describe(tensors, "w.pth").image_size == (64, 64)
    weights = Weights(Path("w.ckpt"), tensors, config={"arch": "t2t_vit_7", "image_size": [32, 128]})
    assert checkpoint_config(weights)["image_size"] == [32, 128]
    assert checkpoint_config(Weights(Path("w.ckpt"), tensors, config={"arch": "t2t_vit_7"}))["image_size"] == 64


def test_a_network_is_known_by_most_of_its_tensors() -> None:
    tensors = state("t2t_vit_7", num_classes=5)
    del tensors["norm.bias"], tensors["blocks.3.mlp.fc1.weight"]
    assert describe(tensors, "w.pth").fitting == ("t2t_vit_7",)
    few = {name: tensor for name, tensor in tensors.items() if name.startswith("blocks.") and ".norm1." in name}
    with pytest.raises(UserError, match="of another network"):
        describe(few, "w.pth")


def test_an_arch_that_contradicts_the_tensors() -> None:
    assert describe(state("t2t_vit_14"), "w.pth", "t2t_vit_14").arch == "t2t_vit_14"
    sentence = r"^w.pth: holds the weights of t2t_vit_14 or t2t_vit_14_resnext, not of arch 't2t_vit_t_14'$"
    with pytest.raises(UserError, match=sentence):
        describe(state("t2t_vit_14"), "w.pth", "t2t_vit_t_14")
    with pytest.raises(UserError, match="did you mean 't2t_vit_14'"):
        describe(state("t2t_vit_14"), "w.pth", "t2t_vit14")


def test_resnext_by_its_name() -> None:
    weights = Weights(Path("w.pth"), state("t2t_vit_14_resnext"))
    assert checkpoint_config(weights)["arch"] == "t2t_vit_14"
    assert checkpoint_config(weights, "t2t_vit_14_resnext")["arch"] == "t2t_vit_14_resnext"


def test_tensors_of_another_network() -> None:
    with pytest.raises(UserError, match="of another network"):
        describe({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "w.pth")
    with pytest.raises(UserError, match="of another network"):
        describe({}, "w.pth")
    deeper = {**state("t2t_vit_7"), "blocks.7.norm1.weight": torch.zeros(256)}
    with pytest.raises(UserError, match=r"matches none of .*cls_token is \(1, 1, 256\), its depth 8"):
        describe(deeper, "w.pth")
    scalars = {name: torch.tensor(0.0) for name in state("t2t_vit_7")}
    with pytest.raises(UserError, match="matches none"):
        describe(scalars, "w.pth")


def test_foreign_weights_bring_what_their_tensors_show() -> None:
    config = checkpoint_config(Weights(Path("w.pth"), state("t2t_vit_t_14", num_classes=10)))
    assert config == {
        "arch": "t2t_vit_t_14",
        "in_chans": 3,
        "num_classes": 10,
        "image_size": 224,
        "disable_approximate_gelu": True,
    }


def test_our_configuration_comes_back_with_the_class_count_of_the_head() -> None:
    own = {"arch": "t2t_vit_7", "num_classes": 0, "image_size": [64, 96], "crop_pct": 1.0, "in_chans": 3, "seed": 3}
    weights = Weights(Path("w.ckpt"), state("t2t_vit_7", num_classes=7, image_size=(64, 96)), config=own)
    assert checkpoint_config(weights) == {**own, "num_classes": 7}
    with pytest.raises(UserError, match="not of arch"):
        checkpoint_config(weights, "t2t_vit_10")
