"""Tokens-to-Token Vision Transformer (arXiv 2101.11986): train, evaluate, predict and export.

Names load what they need when they are first used, so that `import t2t_vit` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from t2t_vit.version import __version__

if TYPE_CHECKING:
    from t2t_vit.api import Evaluation, TrainedRun, evaluate, predict, train
    from t2t_vit.errors import UserError
    from t2t_vit.fast import PackedNetwork, fuse, pack, unfuse
    from t2t_vit.inference.load import load
    from t2t_vit.model import (
        FeaturesOnly,
        T2TViT,
        attention_maps,
        create_model,
        from_pretrained,
        list_models,
        push_to_hub,
        save_pretrained,
    )
    from t2t_vit.weights import load_weights

__all__ = [
    "Evaluation",
    "FeaturesOnly",
    "PackedNetwork",
    "T2TViT",
    "TrainedRun",
    "UserError",
    "__version__",
    "attention_maps",
    "create_model",
    "evaluate",
    "from_pretrained",
    "fuse",
    "list_models",
    "load",
    "load_weights",
    "pack",
    "predict",
    "push_to_hub",
    "save_pretrained",
    "train",
    "unfuse",
]

_HOMES = {
    name: home
    for home, names in {
        "t2t_vit.api": ("Evaluation", "TrainedRun", "evaluate", "predict", "train"),
        "t2t_vit.errors": ("UserError",),
        "t2t_vit.fast": ("PackedNetwork", "fuse", "pack", "unfuse"),
        "t2t_vit.inference.load": ("load",),
        "t2t_vit.model": (
            *("FeaturesOnly", "T2TViT", "attention_maps", "create_model", "from_pretrained", "list_models"),
            *("push_to_hub", "save_pretrained"),
        ),
        "t2t_vit.weights": ("load_weights",),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 't2t_vit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
