"""Folders of the Hugging Face hub's layout."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import t2t_vit
from t2t_vit.errors import UserError
from t2t_vit.model import create_model
from t2t_vit.weights import checkpoint_config, read_weights

TENSORS = {"cls_token": torch.arange(4.0).reshape(1, 1, 4), "head.bias": torch.ones(2), "norm.bias": torch.zeros(4)}


def folder(path: Path, config: Any, arch: str = "t2t_vit_7") -> Path:
    save_file(create_model(arch, num_classes=2, image_size=32).state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def test_a_folder_of_ours(tmp_path: Path) -> None:
    config = {"arch": "t2t_vit_7", "num_classes": 2, "image_size": [32, 32], "crop_pct": 1.0, "classes": ["cat", "dog"]}
    weights = read_weights(folder(tmp_path, config))
    assert weights.path == tmp_path / "model.safetensors" and weights.classes == ("cat", "dog")
    assert checkpoint_config(weights)["crop_pct"] == 1.0
    assert t2t_vit.load(tmp_path).preprocessing.crop_pct == 1.0


def test_a_folder_of_timms(tmp_path: Path) -> None:
    config = {
        "architecture": "t2t_vit_14_resnext",
        "num_classes": 2,
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "crop_pct": 0.95,
            "mean": [0.5, 0.5, 0.5],
            "label_names": ["a", "b"],
        },
    }
    weights = read_weights(folder(tmp_path, config, "t2t_vit_14_resnext"))
    found = checkpoint_config(weights)
    assert (found["arch"], found["crop_pct"], found["mean"]) == ("t2t_vit_14_resnext", 0.95, [0.5, 0.5, 0.5])
    assert found["image_size"] == [32, 32] and weights.classes == ("a", "b")


def test_the_keys_of_others_and_which_of_two_files(tmp_path: Path) -> None:
    trained = {
        "input_size": [1, 32, 48],
        "num_classes": 7,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "label_names": ["a", "b", "c"],
    }
    config = {"architecture": "t2t_vit_7", "img_size": 64, "num_labels": 3, "pretrained_cfg": trained}
    torch.save({"unlike": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    weights = read_weights(folder(tmp_path, config))
    assert weights.path.name == "model.safetensors" and weights.config is not None
    kept = {key: trained[key] for key in ("mean", "std")}
    # The folder's own keys win over those of pretrained_cfg.
    expected = {"arch": "t2t_vit_7", "in_chans": 1, "image_size": [64, 64], "num_classes": 3, **kept}
    assert {key: weights.config[key] for key in expected} == expected
    own = read_weights(folder(tmp_path, {"architecture": "t2t_vit_7", "num_classes": 3, "pretrained_cfg": trained}))
    assert own.config is not None
    assert (own.config["image_size"], own.config["in_chans"], own.config["num_classes"]) == ([32, 48], 1, 3)


def test_labels_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"{12 - number:02d}" for number in range(12)]
    labels = {str(number): name for number, name in enumerate(names)}
    assert read_weights(folder(tmp_path, {"id2label": dict(sorted(labels.items()))})).classes == tuple(names)
    del labels["5"]
    assert read_weights(folder(tmp_path, {"id2label": labels})).classes is None


def test_labels_of_transformers_and_a_config_of_nobody(tmp_path: Path) -> None:
    weights = read_weights(folder(tmp_path, {"id2label": {"0": "x", "1": "y"}, "nested": {"deep": [[1]]}}))
    assert weights.classes == ("x", "y") and weights.config is None
    assert checkpoint_config(weights)["arch"] == "t2t_vit_7"


@pytest.mark.parametrize(
    ("config", "told"), [("{", "as JSON"), ("[" * 100_000, "as JSON"), ("[1]", "no object|not an object")]
)
def test_a_damaged_config(tmp_path: Path, config: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_weights(folder(tmp_path, config))


def test_folders_without_one_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder without model.safetensors or pytorch_model.bin"):
        read_weights(tmp_path)
    (tmp_path / "best.ckpt").write_bytes(b"x")  # the folder of a run's best checkpoints
    with pytest.raises(UserError, match=r"; give \S+best\.ckpt$"):
        read_weights(tmp_path)


def sharded(folder: Path, places: dict[str, Any] | None = None) -> Path:
    """The weights in two files, and their index."""
    names = sorted(TENSORS)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: TENSORS[name] for name in held}, folder / file)
    whole = {name: file for file, held in halves.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {**whole, **(places or {})}}))
    return index


def test_weights_in_several_files(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    for path in (tmp_path, index):
        weights = read_weights(path)
        assert weights.kind == "safetensors index" and weights.tensors.keys() == TENSORS.keys()
        assert all(torch.equal(weights.tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ({"x": "../a.safetensors"}, "names a file that is not in its folder"),
        ({"x": "/a.safetensors"}, "names a file that is not in its folder"),
        ({"x": "c.safetensors"}, r"c\.safetensors is missing from its folder"),
        ({"x": "a.safetensors"}, r"a\.safetensors: .*it lacks x"),
        ({"x": 3}, "no weight_map of names and files"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, places: dict[str, Any], told: str) -> None:
    sharded(tmp_path, places)
    with pytest.raises(UserError, match=told):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not an index of safetensors files"):
        read_weights(tmp_path)


@pytest.mark.parametrize("size", [8192, 10**9, -1, 0, [4096, 4096], "32", [32], 32.5])
def test_a_size_that_no_network_has_is_refused_before_its_positions_are_made(tmp_path: Path, size: Any) -> None:
    folder(tmp_path, {"arch": "t2t_vit_7", "num_classes": 2, "image_size": size})
    for open_it in (t2t_vit.load, t2t_vit.from_pretrained):
        with pytest.raises(UserError, match=str(tmp_path)):
            open_it(tmp_path)
    network = {"arch": "t2t_vit_7", "image_size": size, "num_classes": 2}
    tensors = create_model("t2t_vit_7", num_classes=2, image_size=32).state_dict()
    torch.save({"format": "t2t_vit", "version": 1, "config": network, "model": tensors}, tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=r"own.ckpt: .*cannot be used"):
        t2t_vit.load(tmp_path / "own.ckpt")


@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
def test_what_is_no_file_in_the_place_of_a_configuration(tmp_path: Path, place: str) -> None:
    folder(tmp_path, "").joinpath("config.json").unlink()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "config.json").symlink_to(place)
    with pytest.raises(UserError, match=r"config.json: cannot be read \(it is not a regular file\)"):
        read_weights(tmp_path)


def test_the_files_of_an_index_share_one_limit_of_names(tmp_path: Path) -> None:
    names = [f"{'a' * 200}{number}" for number in range(8000)]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "0.safetensors")
    for number in range(1, 4):
        (tmp_path / f"{number}.safetensors").hardlink_to(tmp_path / "0.safetensors")
    places = {names[number]: f"{number}.safetensors" for number in range(4)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UserError, match=r"1.safetensors.*its header has .* bytes; .* are allowed"):
        read_weights(tmp_path)


def test_an_index_is_told_by_what_it_holds(tmp_path: Path) -> None:
    sharded(tmp_path).rename(tmp_path / "renamed.json")
    assert read_weights(tmp_path / "renamed.json").tensors.keys() == TENSORS.keys()
    bins = {"weight_map": {"cls_token": "pytorch_model-00001-of-00002.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(bins))
    with pytest.raises(UserError, match=r"index of several files of torch.save.*save it as safetensors"):
        read_weights(tmp_path / "pytorch_model.bin.index.json")


def test_a_network_in_several_files_opens_everywhere(tmp_path: Path) -> None:
    model = create_model("t2t_vit_quickstart", num_classes=3, image_size=28, in_chans=1).eval()
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    places = {name: f"{number % 3}.safetensors" for number, name in enumerate(state)}
    for file in set(places.values()):
        save_file({name: state[name] for name in state if places[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    images = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        for again in (t2t_vit.from_pretrained(tmp_path), t2t_vit.load(tmp_path).model):
            torch.testing.assert_close(again(images), model(images))
