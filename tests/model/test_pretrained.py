"""Folders and repositories in the Hugging Face format."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import t2t_vit
import t2t_vit.timm
from t2t_vit import T2TViT, UserError, create_model, from_pretrained
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.fast.fused_layers import FusedTokensToToken, RecomputingMlp
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model.backbone import Transition
from t2t_vit.model.folder_config import FolderConfig, check_saved_together
from t2t_vit.model.pretrained import class_names, preprocessing_of
from t2t_vit.settings.rules import validate
from t2t_vit.settings.schema import KEYS, Config
from t2t_vit.weights import checkpoint_config, read_weights

IMAGES = torch.randn(2, 1, 32, 64)


@pytest.fixture
def model() -> T2TViT:
    torch.manual_seed(0)
    return create_model("t2t_vit_7", num_classes=3, in_chans=1, image_size=(32, 64), approximate_gelu=True).eval()


def test_there_and_back(model: T2TViT, tmp_path: Path) -> None:
    preprocessing = Preprocessing((32, 64), crop_pct=1.0, mean=(0.5,), std=(0.25,), in_chans=1, interpolation="box")
    model.save_pretrained(tmp_path, preprocessing=preprocessing.to_dict(), classes=["cat", "dog", "ñandú"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
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


@pytest.mark.parametrize(("in_chans", "mean"), [(1, [0.449]), (4, [0.485, 0.456, 0.406, 0.5])])
def test_default_preprocessing_fits_grey_and_alpha(in_chans: int, mean: list[float], tmp_path: Path) -> None:
    """`eval` refuses a configuration with a mean that its images do not fit."""
    t2t_vit.create_model("t2t_vit_quickstart", num_classes=3, image_size=28, in_chans=in_chans).save_pretrained(
        tmp_path
    )
    config = checkpoint_config(read_weights(tmp_path))
    assert list(config["mean"]) == pytest.approx(mean) and len(config["std"]) == in_chans
    validate(Config.from_dict({name: value for name, value in config.items() if name in KEYS}))
    assert list(t2t_vit.load(tmp_path).preprocessing.mean) == pytest.approx(mean)


def test_what_cannot_be_saved(model: T2TViT, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 class names for 3 classes"):
        model.save_pretrained(tmp_path, classes=["a", "b"])
    with pytest.raises(UserError, match="preprocessing is for images of"):
        model.save_pretrained(tmp_path, preprocessing=Preprocessing((64, 64), in_chans=1).to_dict())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("architecture"), "gives no architecture"),
        (lambda c: c.update(architecture="resnet50"), "arch 'resnet50' is not known"),
        (lambda c: c.update(architecture="t2t_vit_10"), r"not those of t2t_vit_10 \(33 differ"),
        (lambda c: c.update(num_classes=4), "2 differ, such as head.bias"),
        (lambda c: c.update(num_classes=10**12), "out of range"),
        (lambda c: c.update(num_classes=-1), "out of range"),
        (lambda c: c["pretrained_cfg"].update(input_size=[1, 10**9, 10**9]), "out of range"),
        (lambda c: c["pretrained_cfg"].update(input_size=[1, 2, 2]), "too small"),
        (lambda c: c["pretrained_cfg"].update(mean="no"), 'mean "no" is not valid'),
        (lambda c: c.pop("pretrained_cfg"), "is incomplete"),
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
    with pytest.raises(UserError, match="no such folder, and it is not the name of a repository"):
        from_pretrained(tmp_path / "nowhere")
    model.save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(UserError, match="damaged or truncated safetensors"):
        from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"gone: cannot be read \(No such file or directory\)"):
        check_saved_together(tmp_path, FolderConfig(saved="x"), tmp_path / "gone")
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read as JSON"):
        from_pretrained(tmp_path)


def test_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError("offline mode is enabled")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"owner/name: no such folder.*offline mode"):
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
    address = model.push_to_hub("me/net", classes=["a", "b", "c"], token="secret")
    assert address == "https://hub/me/net/commit/1"
    assert 't2t_vit.from_pretrained("me/net")' in (tmp_path / "me/net/README.md").read_text()
    assert torch.equal(t2t_vit.from_pretrained("me/net", revision="v1")(IMAGES), model(IMAGES))


def test_a_hub_that_cannot_be_reached_is_one_sentence(model: T2TViT, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (type("ConnectError", (Exception,), {"__module__": "httpx"})("no network"), OSError("no network")):
        monkeypatch.setattr("huggingface_hub.HfApi.create_repo", Mock(side_effect=error))
        with pytest.raises(UserError, match=r"me/net: the Hugging Face hub refused it \(no network\)"):
            model.push_to_hub("me/net")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        model.push_to_hub("me/net")


def test_the_hub_is_asked_once_for_each_file(model: T2TViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer could be of a commit that was made meanwhile."""
    model.save_pretrained(tmp_path)
    asked: list[str] = []

    def download(_: str, file: str, **__: object) -> str:
        asked.append(file)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    from_pretrained("me/net")
    assert asked == ["config.json", "model.safetensors"]


def moved(model: T2TViT) -> T2TViT:
    """The model with numbers everywhere, so that every tensor and every setting counts for the answer."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return model.eval()


def plain(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The answer of the modules as they stand."""
    with torch.enable_grad():
        return model(images).detach()


SETTINGS: list[tuple[Any, ...]] = [
    *itertools.product(["token", "avg", ""], [False, True], [0, 3], ["t2t_vit_quickstart"]),
    ("avg", True, 3, "t2t_vit_t_14"),
    ("avg", True, 3, "t2t_vit_c_14"),
]


@pytest.mark.parametrize(("pool", "tanh", "classes", "arch"), SETTINGS)
def test_every_setting_comes_back_through_every_door(
    pool: Any, tanh: bool, classes: int, arch: str, tmp_path: Path
) -> None:
    """Built one way and changed afterwards, so that what counts is what the network has become."""
    torch.manual_seed(0)
    other_pool = "avg" if pool == "token" else "token"
    model = create_model(arch, num_classes=5, in_chans=1, image_size=(32, 48), global_pool=other_pool)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.GELU):
            model.set_submodule(name, nn.GELU("tanh" if tanh else "none"))
    model.reset_classifier(classes, pool)
    model.set_input_size((32, 64), "resize")
    moved(model)
    images = torch.randn(2, 1, 32, 64)
    expected = plain(model, images)
    model.save_pretrained(tmp_path)
    assert torch.equal(plain(from_pretrained(tmp_path), images), expected)
    assert torch.equal(plain(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), images), expected)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        if not classes or not pool:
            with pytest.raises(UserError, match=r"no head|gives no single answer"):
                t2t_vit.load(path)
            continue
        predictor = t2t_vit.load(path)
        assert isinstance(predictor, TorchPredictor)
        torch.testing.assert_close(plain(predictor.model, images), expected, atol=1e-6, rtol=1e-5)


def test_settings_count_for_the_answer() -> None:
    """Otherwise the test above could not fail."""
    images = torch.randn(2, 1, 28, 28)
    answers = []
    for pool, tanh in (("token", False), ("avg", False), ("token", True)):
        torch.manual_seed(0)
        options: Any = {"global_pool": pool, "approximate_gelu": tanh}
        model = create_model("t2t_vit_quickstart", num_classes=3, in_chans=1, image_size=28, **options)
        answers.append(plain(moved(model), images))
    assert (answers[0] - answers[1]).abs().max() > 1e-2
    assert (answers[0] - answers[2]).abs().max() > 1e-4


def test_other_sizes_and_rates_come_back(tmp_path: Path) -> None:
    model = moved(create_model("t2t_vit_7", image_size=32, other_sizes="resize", performer_drop=0.25))
    model.save_pretrained(tmp_path)
    again, images = from_pretrained(tmp_path), torch.randn(1, 3, 48, 32)
    assert torch.equal(plain(again, images), plain(model, images))
    assert again.tokens_to_token.attention1.drop.p == 0.25
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(plain(opened, images), plain(model, images))
    predictor = t2t_vit.load(tmp_path)
    assert predictor.model.other_sizes == "resize"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = moved(create_model("t2t_vit_7", image_size=32, num_classes=3)).to(dtype)
    model.norm.float()  # mixed, as O2 has them
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(again.state_dict()[name], tensor)
    assert [parameter.requires_grad for parameter in again.parameters()] == [True] * len(list(again.parameters()))


def test_preprocessing_and_names_come_back_in_load(model: T2TViT, tmp_path: Path) -> None:
    preprocessing = Preprocessing((32, 64), crop_pct=0.8, mean=(0.4,), std=(0.3,), in_chans=1, interpolation="box")
    model.save_pretrained(tmp_path, preprocessing=preprocessing.to_dict(), classes=["a", "b", "c"])
    for path in (tmp_path, tmp_path / "model.safetensors"):
        predictor = t2t_vit.load(path)
        assert (predictor.preprocessing, predictor.classes) == (preprocessing, ("a", "b", "c"))


def test_a_head_put_in_by_hand_is_saved_as_it_is(model: T2TViT, tmp_path: Path) -> None:
    model.head = nn.Linear(256, 7)
    model.save_pretrained(tmp_path, classes=list("abcdefg"))
    again = from_pretrained(tmp_path)
    assert again.num_classes == 7 and class_names(again) == tuple("abcdefg")
    assert torch.equal(plain(again, IMAGES), plain(model, IMAGES))
    model.head = nn.Identity()
    model.save_pretrained(tmp_path)
    assert torch.equal(plain(from_pretrained(tmp_path), IMAGES), plain(model, IMAGES))


def test_tensors_that_share_memory_are_saved(model: T2TViT, tmp_path: Path) -> None:
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    model.blocks[2].mlp.fc1.weight = nn.Parameter(torch.zeros(1, 256).expand(512, 256))
    model.save_pretrained(tmp_path)
    assert torch.equal(plain(from_pretrained(tmp_path), IMAGES), plain(model, IMAGES))


class Adapter(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.inner(tokens) * 2


class Sharded(torch.Tensor):
    """A stand-in for tensors that are more than numbers: quantised, distributed."""


def patched(model: T2TViT) -> None:
    model.blocks[2].mlp.forward = lambda tokens: tokens


def sharded(model: T2TViT) -> None:
    model.blocks[1].attn.qkv.weight = nn.Parameter(torch.randn(576, 192).as_subclass(Sharded))


def integer(model: T2TViT) -> None:
    weight = nn.Parameter(torch.zeros(192, 384, dtype=torch.int8), requires_grad=False)
    model.blocks[1].mlp.fc2.weight = weight


def on_meta(model: T2TViT) -> None:
    model.blocks[3].mlp.fc2.to("meta")


def set_in(path: str, name: str, value: Any) -> Callable[[T2TViT], None]:
    return lambda model: setattr(model.get_submodule(path), name, value)


CHANGES: list[tuple[Callable[[T2TViT], Any], str]] = [
    (set_in("", "head", nn.Sequential(nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 3))), "head is a Sequential"),
    (set_in("", "head", nn.Linear(192, 3, bias=False)), r"head\.bias is missing"),
    (set_in("", "head", nn.Linear(128, 3)), "head has in_features 128 instead of 192"),
    (set_in("", "norm", nn.Identity()), "norm is a Identity instead of a LayerNorm"),
    (set_in("", "norm", nn.LayerNorm(192, eps=1e-3)), r"norm has eps 0\.001"),
    (set_in("norm", "eps", 1e-3), r"norm has eps 0\.001"),
    (set_in("blocks.0.attn", "scale", 1.0), r"blocks\.0\.attn has scale 1\.0"),
    (set_in("blocks.0.attn", "heads", 2), r"blocks\.0\.attn has heads 2"),
    (set_in("blocks.0.mlp", "act", nn.ReLU()), r"blocks\.0\.mlp\.act is a ReLU"),
    (set_in("blocks.0.mlp", "act", nn.GELU("none")), r"blocks\.0\.mlp\.act|act has approximate"),
    (set_in("blocks.0.mlp", "fc1", Adapter(nn.Linear(192, 384))), r"blocks\.0\.mlp\.fc1 is a Adapter"),
    (set_in("blocks.0", "extra", nn.Linear(2, 2)), r"blocks\.0\.extra was added"),
    (set_in("tokens_to_token.split1", "split", None), r"tokens_to_token\.split1 has split None"),
    (lambda model: model.register_buffer("extra", torch.zeros(2)), "extra was added"),
    (lambda model: model.blocks.append(nn.Identity()), r"blocks\.4 was added"),
    (lambda model: model.prune_intermediate_layers([4]), r"blocks\.3 is missing"),
    (lambda model: model.prune_intermediate_layers(1, prune_norm=True), "norm is a Identity"),
    (lambda model: prune.random_unstructured(model.blocks[0].mlp.fc1, "weight", 0.5), r"blocks\.0\.mlp\.fc1"),
    (lambda model: parametrizations.weight_norm(model.blocks[0].mlp.fc1), r"blocks\.0\.mlp\.fc1 is a Parametrized"),
    (lambda model: model.blocks[1].register_forward_hook(lambda *_: None), r"blocks\.1 has a hook"),
    (lambda model: model.register_forward_pre_hook(lambda *_: None), "the network has a hook"),
    (patched, r"blocks\.2\.mlp has its own forward"),
    (set_in("", "forward_head", lambda tokens: tokens), "the network has its own forward_head"),
    (set_in("", "global_pool", "max"), "its global_pool is 'max'"),
    (set_in("", "name", "mine"), "mine is not in the table"),
    (set_in("", "name", "t2t_vit_10"), "t2t_vit_10 is not in the table of networks, or differs from the one there"),
    (sharded, r"blocks\.1\.attn\.qkv\.weight is a Sharded"),
    (integer, r"blocks\.1\.mlp\.fc2\.weight is of int8"),
    (on_meta, r"blocks\.3\.mlp\.fc2\.weight is on the meta device"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_would_not_open_again_is_refused(change: Callable[[T2TViT], Any], message: str, tmp_path: Path) -> None:
    model = create_model("t2t_vit_quickstart", num_classes=3, in_chans=1, image_size=28, approximate_gelu=True)
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    change(model)
    with pytest.raises(UserError, match=message):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_fused_network_is_saved_as_the_plain_one(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "plain")
    model.tokens_to_token.__class__ = FusedTokensToToken  # what `fuse` does on a GPU
    model.blocks[0].mlp.__class__ = RecomputingMlp
    model.save_pretrained(tmp_path / "fused")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "fused" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


class Doubled(T2TViT):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * 2


class Named(T2TViT):
    """Computes as its parent does."""


@pytest.mark.parametrize(("kind", "is_saved"), [(Doubled, False), (Named, True)])
def test_a_class_of_somebody_elses(kind: type[T2TViT], is_saved: bool, model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    other = kind.from_pretrained(tmp_path)
    assert type(other) is kind
    if is_saved:
        other.save_pretrained(tmp_path / "again")
        assert torch.equal(plain(from_pretrained(tmp_path / "again"), IMAGES), plain(model, IMAGES))
    else:
        with pytest.raises(UserError, match="its class Doubled has its own forward"):
            other.save_pretrained(tmp_path / "again")


def test_saving_changes_neither_the_model_nor_what_is_drawn(model: T2TViT, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model.save_pretrained(tmp_path)
    from_pretrained(tmp_path)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_network_that_was_opened_does_not_hang_on_its_file(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    expected = plain(again, IMAGES)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.write(b"\0" * 4096)
        file.truncate()
    assert torch.equal(plain(again, IMAGES), expected)


def test_a_failing_disk_leaves_the_older_network(
    model: T2TViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    moved(model).reset_classifier(5, "avg")
    for failing in (1, 2):
        calls = iter(range(1, 9))

        def fsync(_: int, calls: Any = calls, failing: int = failing) -> None:
            if next(calls) == failing:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fsync)
        with pytest.raises(UserError, match="could not be written"):
            model.save_pretrained(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    (tmp_path / "taken" / "config.json").mkdir(parents=True)
    with pytest.raises(UserError, match="is a folder, but a file must be written there"):
        model.save_pretrained(tmp_path / "taken")
    assert not (tmp_path / "taken" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model_args"].update(depth=3), "model_args has depth, which no T2T-ViT accepts"),
        (lambda c: c["model_args"].update(global_pool="max"), r'model_args\.global_pool "max" is not valid'),
        (lambda c: c.update(global_pool="avg"), "contradicts itself: model_args.global_pool is 'token'"),
        (lambda c: c.update(disable_approximate_gelu=True), "contradicts itself: approximate_gelu"),
        (lambda c: c["model_args"].update(approximate_gelu="yes"), "is not valid .expected: yes or no"),
        (lambda c: c["model_args"].update(img_size=96, num_classes=4), "contradicts itself: num_classes is 3"),
        (lambda c: c["model_args"].update(performer_drop=2), "is not valid .expected: rate"),
        (lambda c: c["pretrained_cfg"].update(std=[]), "is not valid .expected: value"),
    ],
)
def test_configurations_that_no_door_opens(
    change: Callable[[Any], Any], message: str, model: T2TViT, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for door in (from_pretrained, t2t_vit.load):
        with pytest.raises(UserError, match=message):
            door(tmp_path)


def test_keys_without_a_meaning_are_named(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["temperature"], config["pretrained_cfg"]["gamma"], config["label_names"] = 2.0, 1, ["a", "b"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    named = r"label_names \(names of 2 classes\), temperature, pretrained_cfg\.gamma"
    with pytest.warns(UserWarning, match=named):
        from_pretrained(tmp_path)
    notes: list[str] = []
    t2t_vit.load(tmp_path, note=notes.append)
    assert len(notes) == 1 and "ignored in its config.json: label_names (names of 2 classes), temp" in notes[0]


def test_a_crop_that_is_not_ours_is_refused_by_load(model: T2TViT, tmp_path: Path) -> None:
    model.pretrained_cfg["crop_mode"] = "squash"
    model.save_pretrained(tmp_path)
    assert from_pretrained(tmp_path).pretrained_cfg["crop_mode"] == "squash"
    with pytest.raises(UserError, match="crop_mode is 'squash'"):
        t2t_vit.load(tmp_path)


def test_a_folder_that_timm_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("t2t_vit_7", num_classes=5, img_size=32, approximate_gelu=True, drop_path_rate=0.1)
    model.reset_classifier(3, "avg")
    moved(model)
    images = torch.randn(2, 3, 32, 32)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    assert torch.equal(plain(from_pretrained(tmp_path), images), plain(model, images))
    torch.testing.assert_close(plain(t2t_vit.load(tmp_path).model, images), plain(model, images))
    model.save_pretrained(tmp_path / "ours")
    assert torch.equal(plain(from_pretrained(tmp_path / "ours"), images), plain(model, images))


def test_a_dense_network_comes_back(tmp_path: Path) -> None:
    model = moved(create_model("t2t_vit_dense", num_classes=3, image_size=32, approximate_gelu=True))
    model.save_pretrained(tmp_path)
    again, images = from_pretrained(tmp_path), torch.randn(1, 3, 32, 32)
    assert torch.equal(plain(again, images), plain(model, images))
    transitions = [module for module in again.modules() if isinstance(module, Transition)]
    assert transitions and all(transition.act.approximate == "tanh" for transition in transitions)
