"""Whether one module is what its class says: not subclassed, patched or hooked, and its tensors plain ones."""

import sys
from collections.abc import Iterator
from functools import partialmethod
from numbers import Integral, Real
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from t2t_vit.model import T2TViT, backbone, drop, head, inputs, t2t_vit, tokens_to_token
from t2t_vit.model.backbone import Attention, CheapOperation, GhostAttention, SEAttention
from t2t_vit.model.drop import DropBlock, Dropout, DropPath
from t2t_vit.model.tokens_to_token import NarrowingAttention, TokenPerformer
from t2t_vit.ops import attention, performer, soft_split

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
# Settings that are multiplied with or cut by: of these kinds of numbers, not tensors or None.
_HEADS: dict[str, type] = {"heads": Integral, "scale": Real}
NUMBERS: dict[type[nn.Module], dict[str, type]] = {
    nn.LayerNorm: {"eps": Real},
    NarrowingAttention: {"scale": Real},
    **dict.fromkeys((Attention, SEAttention, GhostAttention), _HEADS),
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


# What runs when a module is called, of torch's classes; of ours it is every method and property.
CALLED = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "__getattr__")
# What a subclass of the network that is ours, timm's face, has of its own.
_BUILDING = {"__init__", "set_input_size", "load_pretrained"}


_DESCRIBED = (property, partialmethod)


def _methods(kind: type[nn.Module]) -> dict[str, Any]:
    """A class's own functions, or of torch's classes those that compute."""
    if not kind.__module__.startswith("t2t_vit."):
        return {name: vars(kind)[name] for name in CALLED if name in vars(kind)}
    return {name: value for name, value in vars(kind).items() if callable(value) or isinstance(value, _DESCRIBED)}


def _functions(room: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(room).items() if isinstance(value, FunctionType)}


# As they were when this module was loaded, so that what somebody replaced since is noticed.
_KINDS: Kinds = (nn.Module, *TORCHS, *OURS)
_METHODS = {kind: _methods(kind) for kind in _KINDS}
_FUNCTIONS: dict[ModuleType, dict[str, Any]] = {
    F: {name: getattr(F, name) for name in ("conv2d", "gelu", "layer_norm", "linear", "relu", "unfold")}
    | {"scaled_dot_product_attention": F.scaled_dot_product_attention},
    **{
        room: _functions(room)
        for room in (*(backbone, drop, head, inputs, t2t_vit, tokens_to_token), *(attention, performer, soft_split))
    },
}


def why_touched(module: nn.Module, kinds: Kinds) -> str | None:
    """Why a module is not one of these classes as they were written, as the end of a sentence; None: it is."""
    if type(module) not in kinds:
        return f"is a {_name(type(module), kinds)}, not a {' or '.join(kind.__name__ for kind in kinds)}"
    return (
        next(_global_reasons(), None)
        or _hook_reason(module)
        or _patch_reason(module)
        or _number_reason(module)
        or _tensor_reason(module)
    )


def _name(found: type[nn.Module], kinds: Kinds) -> str:
    """A class's name; with its module where one of `kinds` has the same."""
    same = found.__name__ in {kind.__name__ for kind in kinds}
    return f"{found.__module__}.{found.__name__}" if same else found.__name__


def _global_reasons() -> Iterator[str]:
    """What holds for every module of the process."""
    if any(getattr(torch_module, f"_global{hooks}", None) for hooks in HOOKS):
        yield "is called where a hook of all modules is registered"
    for room, functions in _FUNCTIONS.items():
        for name, original in functions.items():
            if vars(room).get(name) is not original:
                yield f"computes with {room.__name__}.{name}, which was replaced"


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
        if name != "extra_repr" and callable(value) and callable(getattr(kind, name, None)):
            return f"has its own {name}"
    replaced = replaced_method(kind)
    return None if replaced is None else f"is a {kind.__name__}, whose {replaced} was replaced"


def replaced_method(kind: type[nn.Module]) -> str | None:
    """A method that a class, or one that it is made from, no longer has as it was written; None: there is none."""
    for base in kind.__mro__:
        if base in _METHODS:
            now, written = _methods(base), _METHODS[base]
        elif base in roots():
            now, written = dict.fromkeys((set(vars(base)) & {*_METHODS[T2TViT], *CALLED}) - _BUILDING), {}
        else:
            continue
        for name in [*written, *now]:
            if name not in now or name not in written or now[name] is not written[name]:
                return name
    return None


def _number_reason(module: nn.Module) -> str | None:
    for name, kind in NUMBERS.get(type(module), {}).items():
        value = getattr(module, name, None)
        if not isinstance(value, kind):
            return f"has a {type(value).__name__} as {name}, not a number"
    return None


def _tensor_reason(module: nn.Module) -> str | None:
    needed, optional = TENSORS.get(row_of(module), (set(), set()))
    held = {**module._parameters, **module._buffers}
    for name in sorted(set(held) - needed - optional):
        return f"has a tensor {name} that does not belong to it"
    for name in sorted((needed | optional) & vars(module).keys()):
        return f"has a {name} that is neither a parameter nor a buffer"
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
