"""timm's registry, data tools and folders; `docs/howto/models.md` says how timm's own suite is run."""

from pathlib import Path

import pytest
import timm
import torch

import t2t_vit.timm
from t2t_vit import create_model, list_models


def test_the_example() -> None:
    model = timm.create_model("t2t_vit_14", num_classes=10, in_chans=1, img_size=(96, 160)).eval()
    assert (model.grid, model.image_size) == ((6, 10), (96, 160))
    assert model(torch.randn(1, 1, 96, 160)).shape == (1, 10)


def test_every_variant_is_registered() -> None:
    assert set(timm.list_models("t2t_vit_*")) == set(list_models())
    assert set(t2t_vit.timm.__all__) == set(list_models())
    assert timm.is_model_pretrained("t2t_vit_t_19")
    assert not timm.is_model_pretrained("t2t_vit_dense")


@pytest.mark.parametrize("name", list_models())
def test_configuration_and_tracing(name: str) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    model = timm.create_model(name, img_size=32, num_classes=3, drop_path_rate=0.1).eval()
    cfg = model.default_cfg
    names = model.state_dict().keys()
    assert {f"{cfg['first_conv']}.weight", f"{cfg['classifier']}.weight"} <= names
    assert (cfg["crop_pct"], cfg["interpolation"], cfg["mean"]) == (0.9, "bicubic", (0.485, 0.456, 0.406))
    images = torch.randn(1, 3, 32, 32)
    leaves = {
        "leaf_modules": timm.models.get_notrace_modules(),
        "autowrap_functions": timm.models.get_notrace_functions(),
    }
    traced = create_feature_extractor(model, ["head"], tracer_kwargs={**leaves, "param_shapes_constant": True})
    torch.testing.assert_close(traced(images)["head"], model(images), atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_dense", "t2t_vit_c_14", "t2t_vit_s_6"])
def test_features_only(name: str) -> None:
    model = timm.create_model(name, features_only=True, img_size=64).eval()
    strides = [2, 4, 8] if name == "t2t_vit_s_6" else [4, 8, 16]
    widths = [64, 128, 128] if name == "t2t_vit_s_6" else [64, 64, t2t_vit.timm.VARIANTS[name].widths[-1]]
    assert (model.feature_info.reduction(), model.feature_info.channels()) == (strides, widths)
    maps = model(torch.randn(1, 3, 64, 96))
    sizes = [(width, 64 // stride, 96 // stride) for width, stride in zip(widths, strides, strict=True)]
    assert [tuple(one.shape[1:]) for one in maps] == sizes


def test_weights_are_fitted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save({"state_dict_ema": create_model("t2t_vit_7", image_size=64).state_dict()}, tmp_path / "w.pth.tar")
    model = timm.create_model(
        "t2t_vit_7",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "w.pth.tar")},
        num_classes=5,
        in_chans=1,
        img_size=32,
    )
    saved = torch.load(tmp_path / "w.pth.tar")["state_dict_ema"]
    assert torch.equal(model.blocks[3].mlp.fc1.weight, saved["blocks.3.mlp.fc1.weight"])
    assert model.head.weight.shape == (5, 256)


def test_a_saved_folder_opens_in_timm(tmp_path: Path) -> None:
    model = create_model("t2t_vit_16_ghost", num_classes=3, in_chans=1, image_size=(32, 64)).eval()
    model.save_pretrained(tmp_path, classes=["a", "b", "c"])
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 1, 32, 64)
    assert torch.equal(again(images), model(images))
    assert again.pretrained_cfg["label_names"] == ["a", "b", "c"]
    assert tuple(timm.data.resolve_model_data_config(again)["input_size"]) == (1, 32, 64)
    ours = t2t_vit.timm.TimmT2TViT.from_pretrained(tmp_path)
    assert type(ours) is t2t_vit.timm.TimmT2TViT
    assert torch.equal(ours(images), model(images))
    fitted = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7, in_chans=3, img_size=64)
    assert torch.equal(fitted.norm.weight, model.norm.weight)
    assert fitted(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_other_sizes_are_taken() -> None:
    """timm's scripts feed `--img-size` to a network that knows nothing of it."""
    model = timm.create_model("t2t_vit_7", img_size=64).eval()
    assert model(torch.randn(1, 3, 32, 96)).shape == (1, 1000)
