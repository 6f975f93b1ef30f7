"""timm's own `tests/test_models.py`, of its source distribution, on our networks; without TorchScript and the hub.

The file is run as it is. Only `timm.list_models`, by which it chooses what to try, sees our networks and no others.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm

import t2t_vit.timm
from t2t_vit.variants import VARIANTS

TESTS = Path(__file__).parents[2] / ".venv-peers" / "timm" / "tests" / "test_models.py"
# What timm calls networks whose features are tokens; they have a test of their own in place of one for maps.
TRANSFORMERS = "vit_*"


# Each kind of tokens, and the two blocks that are built otherwise.
FEW = ("t2t_vit_7", "t2t_vit_t_14", "t2t_vit_c_14", "t2t_vit_s_6", "t2t_vit_dense", "t2t_vit_16_ghost")


def ours(filter: Any = "", pretrained: bool = False, exclude_filters: Any = "", **options: Any) -> list[str]:
    """In place of `timm.list_models`: our networks where all are asked for, or transformers, or those with maps."""
    asks_for_maps_alone = TRANSFORMERS in exclude_filters and options.get("include_tags", False)
    if pretrained or asks_for_maps_alone or (filter and TRANSFORMERS not in filter):
        return []
    return list(VARIANTS) if os.environ.get("T2T_VIT_ALL") else list(FEW)


def timms_tests() -> ModuleType:
    spec = importlib.util.spec_from_file_location("timms_test_models", TESTS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "list_models", ours)
        patch.setattr(timm, "list_pretrained", lambda *_, **__: [])
        spec.loader.exec_module(module)
    return module


def names_of(test: Callable[..., Any]) -> set[str]:
    """The networks that a test is parametrized with."""
    marks = getattr(test, "pytestmark", [])
    return {
        str(name)
        for mark in marks
        if mark.name == "parametrize" and mark.args[0] == "model_name"
        for name in mark.args[1]
    }


_module = timms_tests()
cfg_device = _module.cfg_device
CHOSEN = {
    name: test
    for name, test in vars(_module).items()
    if name.startswith("test_") and "torchscript" not in name and names_of(test) and names_of(test) <= set(VARIANTS)
}
globals().update(CHOSEN)


def test_the_tests_of_each_kind_are_there() -> None:
    """timm may rename its tests; then this says so, rather than that nothing was tried."""
    assert set(CHOSEN) >= {
        "test_model_forward",
        "test_model_backward",
        "test_model_default_cfgs_non_std",
        "test_model_forward_features",
        "test_model_forward_intermediates",
        "test_model_forward_intermediates_features",
        "test_model_forward_fx",
        "test_model_backward_fx",
        "test_prune_intermediate_layers_contract",
    }
    assert set(t2t_vit.timm.__all__) == set(VARIANTS)
