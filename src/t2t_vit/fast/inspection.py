"""Whether a network is exactly ours, module by module: what `pack` and `fuse` ask before they compute in its place.

They answer for what a network's modules say, so a module that says something else is refused by its name: another
class, a patched method, a hook, an adapter, a quantised or distributed tensor. Nothing is repaired or skipped.
"""

from collections.abc import Iterator

import torch
from torch import nn

from t2t_vit.errors import UserError
from t2t_vit.fast.fused_layers import FusedTokensToToken, RecomputingMlp
from t2t_vit.fast.untouched import Kinds, roots, row_of, why_touched
from t2t_vit.model import T2TViT
from t2t_vit.model.backbone import (
    Attention,
    Block,
    CheapOperation,
    DenseBlock,
    GhostAttention,
    GhostMlp,
    Mlp,
    SEAttention,
    SqueezeExcitation,
    Transition,
)
from t2t_vit.model.drop import DropBlock, Dropout, DropPath
from t2t_vit.model.tokens_to_token import (
    ConvolutionTokens,
    NarrowingAttention,
    SoftSplitLayer,
    StemStage,
    StemTokens,
    TokenPerformer,
    TokensToToken,
    TokenTransformer,
)

LINEAR, NORM, GELU, DROP, DROP_BLOCK = (nn.Linear,), (nn.LayerNorm,), (nn.GELU,), (Dropout,), (DropBlock,)
BLOCK: dict[str, Kinds] = {
    "norm1": NORM,
    "attn": (Attention, SEAttention, GhostAttention),
    "drop_path1": (DropPath,),
    "drop_path2": (DropPath,),
    "norm2": NORM,
    "mlp": (Mlp, RecomputingMlp, GhostMlp),
}
ATTENTION: dict[str, Kinds] = {"qkv": LINEAR, "proj": LINEAR, "proj_drop": DROP}
MLP: dict[str, Kinds] = {"fc1": LINEAR, "act": GELU, "fc2": LINEAR, "drop1": DROP, "drop2": DROP}
TOKENS: dict[str, Kinds] = {
    "split0": (SoftSplitLayer,),
    "attention1": (TokenPerformer, TokenTransformer),
    "split1": (SoftSplitLayer,),
    "attention2": (TokenPerformer, TokenTransformer),
    "split2": (SoftSplitLayer,),
    "project": LINEAR,
    "drop_block1": DROP_BLOCK,
    "drop_block2": DROP_BLOCK,
}
CHEAP = (CheapOperation,)
# Every class of ours with its children, which have to be there and of one of these classes; no others may be.
CHILDREN: dict[type[nn.Module], dict[str, Kinds]] = {
    T2TViT: {
        "tokens_to_token": (TokensToToken, FusedTokensToToken, ConvolutionTokens, StemTokens),
        "pos_drop": DROP,
        "blocks": (nn.ModuleList,),
        "norm": (nn.LayerNorm, nn.Identity),
        "head": (nn.Linear, nn.Identity),
    },
    TokensToToken: TOKENS,
    FusedTokensToToken: TOKENS,
    ConvolutionTokens: {
        "soft_split0": (nn.Conv2d,),
        "soft_split1": (nn.Conv2d,),
        "project": (nn.Conv2d,),
        "drop_block1": DROP_BLOCK,
        "drop_block2": DROP_BLOCK,
    },
    StemStage: {"conv": (nn.Conv2d,), "norm": NORM, "act": GELU},
    StemTokens: {
        "stage0": (StemStage,),
        "stage1": (StemStage,),
        "project": (nn.Conv2d,),
        "drop_block1": DROP_BLOCK,
        "drop_block2": DROP_BLOCK,
    },
    TokenPerformer: {
        "norm1": NORM,
        "kqv": LINEAR,
        "proj": LINEAR,
        "drop": DROP,
        "norm2": NORM,
        "mlp": (nn.Sequential,),
        **{"mlp.0": LINEAR, "mlp.1": GELU, "mlp.2": LINEAR, "mlp.3": DROP},
    },
    TokenTransformer: {"norm1": NORM, "attn": (NarrowingAttention,), "norm2": NORM, "mlp": (Mlp, RecomputingMlp)},
    NarrowingAttention: {"qkv": LINEAR, "proj": LINEAR},
    Block: BLOCK,
    DenseBlock: {**BLOCK, "dense_linear": LINEAR},
    Transition: {"linear": LINEAR, "act": GELU},
    Attention: ATTENTION,
    SEAttention: {**ATTENTION, "se_layer": (SqueezeExcitation,)},
    GhostAttention: {
        **dict.fromkeys(("q", "k", "v", "proj"), LINEAR),
        **dict.fromkeys(("cheap_operation_q", "cheap_operation_k", "cheap_operation_v"), CHEAP),
        "proj_drop": DROP,
    },
    SqueezeExcitation: {
        "fc": (nn.Sequential,),
        **{"fc.0": LINEAR, "fc.1": (nn.ReLU,), "fc.2": LINEAR, "fc.3": (nn.Sigmoid,)},
    },
    Mlp: MLP,
    RecomputingMlp: MLP,
    GhostMlp: {**MLP, "cheap_operation2": CHEAP, "cheap_operation3": CHEAP},
}
BLOCKS: Kinds = (Block, DenseBlock, Transition)


def refuse_what_is_not_ours(model: nn.Module, verb: str, *, in_eval_mode: bool) -> None:
    """Walk the whole tree once; see the module's own words.

    Args:
        verb: "pack" or "fuse", for the sentence.
        in_eval_mode: a module in training mode is refused, too.

    Raises:
        UserError: the first module that is not ours, by its name, and why.
    """
    for path, module, kinds in _tree(model):
        reason = _reason(module, kinds) or (_mode_reason(module) if in_eval_mode else None)
        if reason is not None:
            raise UserError(f"cannot {verb} the network: {path or 'the model'} {reason}")


def refuse_what_does_not_fit(shadow: T2TViT, verb: str) -> None:
    """Run a plain network's forward pass on shapes alone: kernels would read beyond what a plain one refuses.

    Args:
        shadow: a copy of the network, plain, whose tensors are `shape_alone`.

    Raises:
        UserError: its modules do not fit each other.
    """
    images = torch.empty(1, shadow.in_chans, *shadow.image_size, device="meta", dtype=torch.float32)
    try:
        with torch.no_grad():
            shadow.eval()(images)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot {verb} the network: its modules do not match each other ({reason})") from error


def _tree(model: nn.Module) -> Iterator[tuple[str, nn.Module, Kinds]]:
    """Every module with its path and the classes that its place allows, parents first."""
    waiting: list[tuple[str, nn.Module, Kinds]] = [("", model, roots())]
    while waiting:
        path, module, kinds = waiting.pop(0)
        yield path, module, kinds
        below, allowed = _below(module), _allowed(module)
        before = f"{path}." if path else ""
        waiting += [(before + name, child, allowed[name]) for name, child in below.items() if name in allowed]


def _allowed(module: nn.Module) -> dict[str, Kinds]:
    if type(module) is nn.ModuleList:  # of blocks, as many as there are
        return dict.fromkeys(module._modules, BLOCKS)
    return CHILDREN.get(row_of(module), {})


def _below(module: nn.Module) -> dict[str, nn.Module]:
    """A module's children; those of a sequence of ours belong to the module that it is a child of."""
    if type(module) is nn.Sequential:
        return {}
    allowed = _allowed(module)
    found = {name: child for name, child in module._modules.items() if child is not None}
    within = {
        f"{name}.{number}": part
        for name, child in found.items()
        if type(child) is nn.Sequential and nn.Sequential in allowed.get(name, ())
        for number, part in child._modules.items()
        if part is not None
    }
    return found | within


def _reason(module: nn.Module, kinds: Kinds) -> str | None:
    """Why a module is not one of these classes, whole and untouched."""
    reason = why_touched(module, kinds)
    if reason is not None:
        return reason
    below, allowed = _below(module), _allowed(module)
    for name in sorted(set(below) - set(allowed)):
        return f"has a module {name} that does not belong to it"
    for name in sorted(set(allowed) - set(below)):
        return f"has lost its module {name}"
    return None


def _mode_reason(module: nn.Module) -> str | None:
    training = module.training and not isinstance(module, nn.Identity | nn.ModuleList)  # which have no mode
    return "is in training mode; call eval() on the whole network" if training else None
