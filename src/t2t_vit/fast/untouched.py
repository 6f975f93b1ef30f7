"""Whether one module is what its class says: not subclassed, patched or hooked, and its tensors plain ones."""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from t2t_vit.model import T2TViT, backbone, tokens_to_token
from t2t_vit.model.backbone import CheapOperation
from t2t_vit.model.drop import DropBlock, Dropout, DropPath
from t2t_vit.model.tokens_to_token import TokenPerformer

Kinds = tuple[type[nn.Module], ...]
# Tensors of a module: those that it has to have, and those that may be None.
TENSORS: dict[type[nn.Module], tuple[set[str], set[str]]] = {
    T2TViT: ({"cls_token", "pos_embed"}, set()),
    TokenPerformer: ({"w"}, set()),
    CheapOperation: ({"weight"}, set()),
    nn.Linear: ({"weight"}, {"bias"}),
    nn.Conv2d: ({"weight"}, {"bias"}),
    nn.LayerNorm: ({"weight", "bias"}, set()),
}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TORCHS: Kinds = (
    nn.Linear,
    nn.Conv2d,
    nn.LayerNorm,
    nn.GELU,
    nn.ReLU,
    nn.Sigmoid,
    nn.Identity,
    nn.ModuleList,
    nn.Sequential,
)
OURS: Kinds = (
    *(T2TViT, Dropout, DropPath, DropBlock),
    *(
        kind
        for room in (backbone, tokens_to_token)
        for kind in vars(room).values()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == room.__name__
    ),
)


def _methods(kind: type[nn.Module]) -> dict[str, Any]:
    """A class's own functions, or of torch's classes the one that computes."""
    own = kind.__module__.startswith("t2t_vit.")
    return {name: value for name, value in vars(kind).items() if callable(value) and (own or name == "forward")}


# As they were when this module was loaded, so that a method that somebody replaced since is noticed.
_METHODS = {kind: _methods(kind) for kind in (*TORCHS, *OURS)}


def why_touched(module: nn.Module, kinds: Kinds) -> str | None:
    """Why a module is not one of these classes as they were written, as the end of a sentence; None: it is."""
    if type(module) not in kinds:
        return f"is a {_name(type(module), kinds)}, not a {' or '.join(kind.__name__ for kind in kinds)}"
    return _global_reason() or _hook_reason(module) or _patch_reason(module) or _tensor_reason(module)


def _name(found: type[nn.Module], kinds: Kinds) -> str:
    """A class's name; with its module where one of `kinds` has the same."""
    same = found.__name__ in {kind.__name__ for kind in kinds}
    return f"{found.__module__}.{found.__name__}" if same else found.__name__


def _global_reason() -> str | None:
    """What holds for every module of the process."""
    is_hooked = any(getattr(torch_module, f"_global{hooks}", None) for hooks in HOOKS)
    return "a hook of all modules is registered" if is_hooked else None


def roots() -> Kinds:
    """The network itself, also as timm's registry builds it, where that was imported."""
    registered = sys.modules.get("t2t_vit.timm")
    return (T2TViT,) if registered is None else (T2TViT, registered.TimmT2TViT)


def row_of(module: nn.Module) -> type[nn.Module]:
    """The row of the tables that a module's class is looked up in."""
    return T2TViT if type(module) in roots() else type(module)


def _hook_reason(module: nn.Module) -> str | None:
    return "has a hook" if any(getattr(module, hooks) for hooks in HOOKS) else None


def _patch_reason(module: nn.Module) -> str | None:
    kind = type(module)
    for name, value in vars(module).items():
        if callable(value) and callable(getattr(kind, name, None)):
            return f"has its own {name}"
    for name, original in _METHODS.get(kind, {}).items():
        if vars(kind).get(name) is not original:
            return f"is a {kind.__name__}, whose {name} was replaced"
    return None


def _tensor_reason(module: nn.Module) -> str | None:
    needed, optional = TENSORS.get(row_of(module), (set(), set()))
    held = {**module._parameters, **module._buffers}
    for name in sorted(set(held) - needed - optional):
        return f"has a tensor {name} that does not belong to it"
    for name in sorted(needed):
        if held.get(name) is None:
            return f"has no {name}"
    for name, tensor in held.items():
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
            return f"has a {type(tensor).__name__} as {name}, not a plain tensor"
        if tensor.is_meta or not tensor.is_floating_point():
            return f"has a {name} without numbers to multiply ({tensor.dtype} on {tensor.device.type})"
    if isinstance(module, nn.LayerNorm) and (module.weight.ndim != 1 or module.normalized_shape != module.weight.shape):
        return f"normalises {tuple(module.normalized_shape)} numbers, not those of a token"
    return None
