"""The names that other programs give to the same tensors."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import t2t_vit
from t2t_vit.model import create_model
from t2t_vit.weights import read_weights
from t2t_vit.weights.mindspore_file import write_mindspore_file
from t2t_vit.weights.names import authors_names, to_mindspore, to_torch

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mindspore"


def state(arch: str) -> dict[str, Tensor]:
    return dict(create_model(arch, num_classes=3, image_size=32).state_dict())


def mmpretrain(name: str) -> str:
    """The authors' name in mmpretrain, by the key map of the fact sheet, the other way round."""
    if name.startswith("head."):
        return f"head.layers.{name}"
    name = re.sub(r"\.norm([12])\.", r".ln\1.", re.sub(r"^blocks\.", "encoder.", name))
    return "backbone." + name.replace(".mlp.fc1.", ".ffn.layers.0.0.").replace(".mlp.fc2.", ".ffn.layers.1.")


@pytest.mark.parametrize("arch", ["t2t_vit_t_14", "t2t_vit_t_19"])
def test_mmpretrain(tmp_path: Path, arch: str) -> None:
    expected = state(arch)
    torch.save(
        {"meta": {"epoch": 310}, "state_dict": {mmpretrain(key): t for key, t in expected.items()}}, tmp_path / "w"
    )
    found = read_weights(tmp_path / "w").tensors
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_mmpretrain_names_as_they_are() -> None:
    names = (
        "backbone.cls_token",
        "backbone.tokens_to_token.attention1.ln1.weight",
        "backbone.tokens_to_token.attention2.ffn.layers.0.0.bias",
        "backbone.encoder.13.ln2.bias",
        "backbone.encoder.0.attn.qkv.weight",
        "backbone.encoder.0.ffn.layers.1.weight",
        "backbone.norm.weight",
        "head.layers.head.weight",
    )
    extra = {"backbone.encoder.0.ln1.weight": torch.ones(2)}
    assert list(authors_names({**{name: torch.ones(2) for name in names}, **extra})) == [
        "cls_token",
        "tokens_to_token.attention1.norm1.weight",
        "tokens_to_token.attention2.mlp.fc1.bias",
        "blocks.13.norm2.bias",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc2.weight",
        "norm.weight",
        "head.weight",
        "blocks.0.norm1.weight",
    ]


@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod.backbone."])
def test_the_names_of_timms_pull_request_behind_any_prefix(prefix: str) -> None:
    expected = state("t2t_vit_7")
    foreign = {prefix + name.replace("tokens_to_token.", "patch_embed."): tensor for name, tensor in expected.items()}
    assert list(authors_names(foreign)) == list(expected)


@pytest.mark.parametrize(
    "arch", ["t2t_vit_7", "t2t_vit_t_14", "t2t_vit_16_ghost", "t2t_vit_dense", "t2t_vit_c_14", "t2t_vit_s_6"]
)
def test_mindspore_and_back_bit_for_bit(tmp_path: Path, arch: str) -> None:
    expected = state(arch)
    write_mindspore_file(expected, tmp_path / "w.ckpt")
    weights = read_weights(tmp_path / "w.ckpt")
    assert weights.kind == "mindspore" and list(weights.tensors) == list(expected)
    for name, tensor in weights.tensors.items():
        assert tensor.shape == expected[name].shape and torch.equal(tensor, expected[name]), name


def test_norms_and_one_dimensional_convolutions_in_mindspore() -> None:
    tensors = {
        "blocks.0.norm1.weight": torch.ones(4),
        "blocks.0.norm1.bias": torch.ones(4),
        "head.weight": torch.ones(2, 4),
        "head.bias": torch.ones(2),
        "blocks.0.attn.conv.weight": torch.ones(4, 1, 1),
        "wide.weight": torch.ones(4, 2, 3),
        "split.weight": torch.ones(4, 3, 7, 7),
    }
    theirs = to_mindspore(tensors)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == {
        "blocks.0.norm1.gamma": (4,),
        "blocks.0.norm1.beta": (4,),
        "head.weight": (2, 4),
        "head.bias": (2,),
        "blocks.0.attn.conv.weight": (4, 1, 1, 1),
        "wide.weight": (4, 2, 1, 3),
        "split.weight": (4, 3, 7, 7),
    }
    assert {name: tensor.shape for name, tensor in to_torch(theirs).items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }


def test_every_name_of_a_batch_norm() -> None:
    ours = {
        f"bn.{name}": torch.full((2,), float(n))
        for n, name in enumerate(("weight", "bias", "running_mean", "running_var"))
    }
    theirs = to_mindspore(ours)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    assert [(name, tensor[0].item()) for name, tensor in theirs.items()] == [
        (f"bn.{n}", i) for i, n in enumerate(names)
    ]
    assert {name: tensor[0].item() for name, tensor in to_torch(theirs).items()} == {
        name: tensor[0].item() for name, tensor in ours.items()
    }


def test_wrappers_in_wrappers() -> None:
    names = ("module.head.weight", "_orig_mod.module.head.bias", "module.module._orig_mod.norm.bias", "remodule.x")
    assert list(authors_names({name: torch.ones(2) for name in names})) == [
        *("head.weight", "head.bias", "norm.bias", "remodule.x")
    ]


def test_a_prefix_that_is_not_the_only_one_stays() -> None:
    names = ("teacher.cls_token", "student.cls_token", "student.norm.weight")
    assert list(authors_names({name: torch.ones(2, 2) for name in names})) == list(names)


def test_types_stay_as_they_are(tmp_path: Path) -> None:
    kinds = ("float16", "bfloat16", "float64", "int8", "int16", "int64", "uint8", "bool")
    tensors = {f"net.{kind}": torch.tensor([[0, 1], [1, 1]]).to(getattr(torch, kind)) for kind in kinds}
    write_mindspore_file(tensors, tmp_path / "w.ckpt")
    found = read_weights(tmp_path / "w.ckpt").tensors
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: tensor.dtype for n, tensor in tensors.items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_state_of_the_training_is_told_from_the_network() -> None:
    weights = read_weights(FIXTURES / "adam.ckpt")
    assert list(weights.tensors) == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert {"global_step", "learning_rate", "adam_m.norm.gamma", "adam_v.head.bias", "epoch_num", "note"} <= {
        *weights.state
    }
    assert len(weights.state) == 14


def test_bfloat16_of_mindspore_into_a_model(tmp_path: Path) -> None:
    found = read_weights(FIXTURES / "bfloat16.ckpt").tensors
    assert found["head.weight"].dtype == torch.bfloat16
    source, target = (create_model("t2t_vit_7", num_classes=3, image_size=32) for _ in range(2))
    write_mindspore_file({name: t.bfloat16() for name, t in source.state_dict().items()}, tmp_path / "w.ckpt")
    report = t2t_vit.load_weights(target, tmp_path / "w.ckpt")
    assert len(report.loaded) == len(source.state_dict())
    assert torch.equal(target.norm.weight, source.norm.weight.bfloat16().float())


def test_the_moving_average_of_a_mindspore_training(tmp_path: Path) -> None:
    tensors = state("t2t_vit_7")
    average = {f"ema.{name}": tensor + 1 for name, tensor in to_mindspore(tensors).items() if name != "pos_embed"}
    slots = {f"moments.{name}": tensor for name, tensor in to_mindspore(tensors).items()}
    both = {**to_mindspore(tensors), **average, **slots, "momentum": torch.tensor(0.9)}
    write_mindspore_file(both, tmp_path / "w.ckpt")
    weights = read_weights(tmp_path / "w.ckpt")
    assert weights.copies == ("ema", "raw") and weights.chosen == "ema"
    assert torch.equal(weights.tensors["norm.weight"], tensors["norm.weight"] + 1)
    assert torch.equal(weights.tensors["pos_embed"], tensors["pos_embed"])
    raw = read_weights(tmp_path / "w.ckpt", "raw")
    assert list(raw.tensors) == list(tensors) and len(raw.state) == len(slots) + 1
    model = create_model("t2t_vit_7", num_classes=3, image_size=32)
    report = t2t_vit.load_weights(model, tmp_path / "w.ckpt", which="raw")
    assert not report.unused and f"{len(slots) + 1} entries of the training state left out" in str(report)
