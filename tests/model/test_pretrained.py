"""Folders and repositories in the Hugging Face format."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import t2t_vit
from t2t_vit import T2TViT, UserError, create_model, from_pretrained, push_to_hub
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.model.pretrained import class_names, preprocessing_of

IMAGES = torch.randn(2, 1, 32, 64)


@pytest.fixture
def model() -> T2TViT:
    torch.manual_seed(0)
    return create_model("t2t_vit_7", num_classes=3, in_chans=1, image_size=(32, 64), approximate_gelu=True).eval()


def test_there_and_back(model: T2TViT, tmp_path: Path) -> None:
    preprocessing = Preprocessing((32, 64), crop_pct=1.0, mean=(0.5,), std=(0.25,), in_chans=1, interpolation="box")
    model.save_pretrained(tmp_path, preprocessing=preprocessing.to_dict(), classes=["cat", "dog", "ñandú"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for again in (from_pretrained(tmp_path), T2TViT.from_pretrained(str(tmp_path))):
        assert not again.training
        assert torch.equal(again(IMAGES), model(IMAGES))
        assert Preprocessing.from_dict(preprocessing_of(again)) == preprocessing
        assert class_names(again) == ("cat", "dog", "ñandú")
    again.save_pretrained(tmp_path / "copy")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_position_table_is_the_one_that_was_saved(model: T2TViT, tmp_path: Path) -> None:
    model.set_input_size((64, 64), "resize")
    model.save_pretrained(tmp_path)
    assert torch.equal(from_pretrained(tmp_path).pos_embed, model.pos_embed)
    assert from_pretrained(tmp_path, image_size=(32, 96), position="resize").grid == (2, 6)


def test_another_class_count(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, classes=["a", "b", "c"])
    again = from_pretrained(tmp_path, num_classes=5)
    assert again(IMAGES).shape == (2, 5)
    assert class_names(again) is None
    assert torch.equal(again.forward_features(IMAGES), model.forward_features(IMAGES))
    assert class_names(from_pretrained(tmp_path, num_classes=3)) == ("a", "b", "c")


def test_without_a_head_and_with_another_pool(model: T2TViT, tmp_path: Path) -> None:
    model.reset_classifier(0, "avg")
    model.save_pretrained(tmp_path)
    assert torch.equal(from_pretrained(tmp_path)(IMAGES), model(IMAGES))


def test_default_preprocessing_is_the_authors(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    expected = Preprocessing((32, 64), in_chans=1)
    assert Preprocessing.from_dict(preprocessing_of(from_pretrained(tmp_path))) == expected


def test_what_cannot_be_saved(model: T2TViT, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 class names for 3 classes"):
        model.save_pretrained(tmp_path, classes=["a", "b"])
    with pytest.raises(UserError, match="preprocessing is for images of"):
        model.save_pretrained(tmp_path, preprocessing=Preprocessing((64, 64), in_chans=1).to_dict())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("architecture"), "names no architecture"),
        (lambda c: c.update(architecture="resnet50"), "arch 'resnet50' is not known"),
        (lambda c: c.update(architecture="t2t_vit_10"), r"not those of t2t_vit_10 \(33 differ"),
        (lambda c: c.update(num_classes=4), "2 differ, such as head.bias"),
        (lambda c: c.update(num_classes=10**12), "out of range"),
        (lambda c: c.update(num_classes=-1), "out of range"),
        (lambda c: c["pretrained_cfg"].update(input_size=[1, 10**9, 10**9]), "out of range"),
        (lambda c: c["pretrained_cfg"].update(input_size=[1, 2, 2]), "too small"),
        (lambda c: c["pretrained_cfg"].update(mean="no"), "is not whole"),
        (lambda c: c.pop("pretrained_cfg"), "is not whole"),
    ],
)
def test_wrong_configurations(change, message: str, model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        from_pretrained(tmp_path)


def test_wrong_folders(model: T2TViT, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        from_pretrained(tmp_path)
    with pytest.raises(UserError, match="no such folder, and it is no name of a repository"):
        from_pretrained(tmp_path / "nowhere")
    model.save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(UserError, match="damaged safetensors"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not JSON"):
        from_pretrained(tmp_path)


def test_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError("offline mode is enabled")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"owner/name: there is no such folder.*offline mode"):
        from_pretrained("owner/name")


def test_from_and_to_the_hub(model: T2TViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def __init__(self, token: str | None) -> None:
            assert token == "secret"

        def create_repo(self, repo_id: str, **_: object) -> None:
            (tmp_path / repo_id).mkdir(parents=True)

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> SimpleNamespace:
            assert commit_message
            for path in Path(folder_path).iterdir():
                (tmp_path / repo_id / path.name).write_bytes(path.read_bytes())
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file, **_: str(tmp_path / repo / file))
    address = push_to_hub(model, "me/net", classes=["a", "b", "c"], token="secret")
    assert address == "https://hub/me/net/commit/1"
    assert 't2t_vit.from_pretrained("me/net")' in (tmp_path / "me/net/README.md").read_text()
    assert torch.equal(t2t_vit.from_pretrained("me/net", revision="v1")(IMAGES), model(IMAGES))
