"""Folders in the layout of the Hugging Face hub: `config.json` beside `model.safetensors`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.weights.plain import plain_classes, plain_config

# In the order of preference.
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
_CONFIG_FILE = "config.json"
_LONGEST_CONFIG = 2**22
# What timm and transformers call our keys.
_OTHER_NAMES = {"architecture": "arch", "img_size": "image_size", "num_labels": "num_classes"}


@dataclass(frozen=True)
class FolderConfig:
    """What a folder's config.json tells, in our keys."""

    config: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None


def weights_file_in(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
        UserError: there is none.
    """
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    if (folder / f"{WEIGHTS_FILES[0]}.index.json").exists():
        raise UserError(f"{folder}: its weights are split into several files; save them as one model.safetensors")
    raise UserError(f"{folder}: is a folder without {' or '.join(WEIGHTS_FILES)}; name the weights file in it")


def folder_config(folder: Path) -> FolderConfig:
    """What `config.json` says, or nothing where there is none.

    Raises:
        UserError: it is no JSON object.
    """
    path = folder / _CONFIG_FILE
    try:
        if not path.is_file():
            return FolderConfig()
        with path.open("rb") as file:
            found = json.loads(file.read(_LONGEST_CONFIG))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is not an object of keys and values")
    trained = found.get("pretrained_cfg")
    merged = {**_input_of(trained if isinstance(trained, dict) else {}), **found}
    config = plain_config({_OTHER_NAMES.get(key, key): value for key, value in merged.items() if value is not None})
    return FolderConfig(config if config and config.get("arch") else None, _classes(merged))


def _input_of(trained: Mapping[str, Any]) -> dict[str, Any]:
    """timm's `pretrained_cfg`: what pictures the network was trained with."""
    kept = {key: trained[key] for key in ("crop_pct", "mean", "std", "num_classes", "label_names") if key in trained}
    size = trained.get("input_size")
    if isinstance(size, list) and len(size) == 3:
        kept |= {"in_chans": size[0], "image_size": size[1:]}
    return kept


def _classes(found: Mapping[str, Any]) -> tuple[str, ...] | None:
    for key in ("classes", "label_names"):
        if (classes := plain_classes(found.get(key))) is not None:
            return classes
    labels = found.get("id2label")
    if isinstance(labels, dict) and all(str(i) in labels for i in range(len(labels))):
        return plain_classes([labels[str(i)] for i in range(len(labels))])
    return None
