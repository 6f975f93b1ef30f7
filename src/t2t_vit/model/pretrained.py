"""Networks as Hugging Face keeps them: a folder or a repository with `config.json` and `model.safetensors`.

The configuration is timm's, so that `timm.create_model("local-dir:FOLDER", pretrained=True)`, or "hf-hub:REPO", opens
the same folder once `t2t_vit.timm` is imported. Preprocessing and class names travel in it.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write
from t2t_vit.model.hub import located, published
from t2t_vit.model.position import PositionPolicy
from t2t_vit.model.t2t_vit import T2TViT
from t2t_vit.variants import find_variant

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_LARGEST_CONFIG = 1 << 24
Model = TypeVar("Model", bound=T2TViT)


def save_pretrained(
    model: T2TViT,
    folder: str | Path,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Write `config.json` and `model.safetensors` into `folder`.

    Args:
        preprocessing: as `Preprocessing.to_dict` gives it; None keeps what came with the model, or the authors'.
        classes: names in the order of the logits; None keeps those that came with the model.

    Raises:
        UserError: the folder cannot be written, or there is another number of names than classes.
    """
    from safetensors.torch import save

    names = class_names(model) if classes is None else tuple(map(str, classes))
    if names is not None and len(names) != model.num_classes:
        raise UserError(f"{len(names)} class names for {model.num_classes} classes of {model.name}")
    config = config_of(model, preprocessing, names)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(Path(folder) / WEIGHTS) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    with atomic_write(Path(folder) / CONFIG, "w") as file:
        json.dump(config, file, indent=2, ensure_ascii=False)
        file.write("\n")


def from_pretrained(
    path_or_repo: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    position: PositionPolicy = "rebuild",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    model_class: type[Model] = T2TViT,  # type: ignore[assignment]  # the default of a type variable
) -> Model:
    """The network of a folder that `save_pretrained` wrote, or of a repository on the Hugging Face hub; in eval mode.

    Args:
        path_or_repo: a folder, which needs no network, or "owner/name".
        num_classes: another class count: the head is new and untrained.
        image_size: another side or (height, width) in pixels, with `position` for the position table.
        revision, cache_dir, token, local_files_only: as in `huggingface_hub.hf_hub_download`.

    Raises:
        UserError: there is no such folder or repository, or it holds no network of ours.
    """
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    config = _read_config(located(path_or_repo, CONFIG, hub))
    model = _built(config, path_or_repo, model_class)
    _fill(model, _read_tensors(located(path_or_repo, WEIGHTS, hub)), path_or_repo)
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    if image_size is not None:
        model.set_input_size(image_size, position)
    return model.eval()


def push_to_hub(
    model: T2TViT,
    repo_id: str,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Add T2T-ViT",
) -> str:
    """Save the model into the repository "owner/name" of the Hugging Face hub, created where it is missing.

    Returns:
        The commit's address.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, preprocessing=preprocessing, classes=classes)
        (Path(folder) / "README.md").write_text(_card(model, repo_id), encoding="utf-8")
        return published(folder, repo_id, private=private, token=token, commit_message=commit_message)


def config_of(
    model: T2TViT, preprocessing: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """What `config.json` says of the model."""
    given = preprocessing or {}
    if "image_size" in given and tuple(given["image_size"]) != model.image_size:
        raise UserError(f"preprocessing is for images of {given['image_size']}, {model.name} for {model.image_size}")
    cfg = {key: model.pretrained_cfg[key] for key in _KEPT if key in model.pretrained_cfg}
    cfg |= {key: given[key] for key in _PREPROCESSING if key in given}
    # The first layer is no convolution, so timm cannot fit it to other channels: it is not told of it.
    cfg |= {"input_size": [model.in_chans, *model.image_size], "num_classes": model.num_classes, "first_conv": None}
    cfg |= {"fixed_input_size": True, "classifier": "head", "pool_size": list(model.grid)}
    return {
        "architecture": model.name,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        **({"label_names": list(classes)} if classes else {}),
        "model_args": {"global_pool": model.global_pool, "approximate_gelu": model.approximate_gelu},
        "pretrained_cfg": cfg,
        "library_name": "t2t_vit",
    }


def class_names(model: T2TViT) -> tuple[str, ...] | None:
    """Names of the classes in the order of the logits, where the model came with them."""
    names = model.pretrained_cfg.get("label_names")
    return tuple(names) if names and len(names) == model.num_classes else None


def preprocessing_of(model: T2TViT) -> dict[str, Any]:
    """The preprocessing that came with the model, or the authors', as `Preprocessing.from_dict` takes it."""
    kept = {key: model.pretrained_cfg[key] for key in _PREPROCESSING}
    return {"image_size": list(model.image_size), "in_chans": model.in_chans, **kept}


_PREPROCESSING = ("crop_pct", "mean", "std", "interpolation")
_KEPT = (*_PREPROCESSING, "crop_mode")


def _read_config(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_CONFIG:
        raise UserError(f"{path}: is too long for a configuration")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise UserError(f"{path}: names no architecture; it was not written by save_pretrained")
    return config


def _built(config: Mapping[str, Any], source: str | Path, model_class: type[Model]) -> Model:
    variant = find_variant(config["architecture"])
    try:
        cfg, arguments = dict(config["pretrained_cfg"]), dict(config.get("model_args") or {})
        in_chans, height, width = (int(side) for side in cfg["input_size"])
        num_classes = int(config["num_classes"])
        cfg |= {key: tuple(float(value) for value in cfg[key]) for key in ("mean", "std")}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: its {CONFIG} is not whole ({error!r})") from error
    if min(in_chans, height, width, num_classes + 1) < 1 or max(in_chans, height, width, num_classes >> 8) > 8192:
        raise UserError(f"{source}: its {CONFIG} is out of range: input {cfg['input_size']}, {num_classes} classes")
    model = model_class(
        variant,
        config["architecture"],
        num_classes=num_classes,
        in_chans=in_chans,
        image_size=(height, width),
        drop=0.0,
        drop_path=0.0,
        drop_block=0.0,
        performer_drop=0.1,
        approximate_gelu=bool(arguments.get("approximate_gelu", False)),
        global_pool=arguments.get("global_pool", "token"),
    )
    names = config.get("label_names")
    known = {key: cfg[key] for key in _KEPT if key in cfg}
    model.pretrained_cfg = {**model.pretrained_cfg, **known, **({"label_names": tuple(names)} if names else {})}
    return model


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path}: is a damaged safetensors file, cut short perhaps ({error})") from error


def _fill(model: T2TViT, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise UserError(
            f"{source}: its tensors are not those of {model.name} ({len(wrong)} differ, such as {wrong[0]})"
        )
    model.load_state_dict(dict(tensors))


def _card(model: T2TViT, repo_id: str) -> str:
    height, width = model.image_size
    return f"""---
library_name: t2t_vit
pipeline_tag: image-classification
tags:
- image-classification
- t2t-vit
---
# {model.name}
{model.num_classes} classes, images of {height} x {width} pixels.

```python
import t2t_vit

model = t2t_vit.from_pretrained("{repo_id}")
```
"""
