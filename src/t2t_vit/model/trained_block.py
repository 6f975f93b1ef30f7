"""The backbone's block as few operations for training on a CPU: the same numbers to rounding, in half of the time."""

from typing import cast

import torch
from torch import Tensor, nn

from t2t_vit.model.attention import Attention
from t2t_vit.model.drop import Dropout, DropPath
from t2t_vit.model.linear import Linear
from t2t_vit.model.mlp import Mlp
from t2t_vit.ops.kernels import exporting, watched
from t2t_vit.ops.native import ends, trainable_linear_add, trainable_norm_linear

LAYERS = (nn.LayerNorm, nn.Linear, Linear, nn.GELU, Dropout, DropPath)


def trains_natively(block: nn.Module, tokens: Tensor) -> bool:
    """Whether `trained_block` computes this block here: with a gradient, autocast to bfloat16, all layers plain.

    The block's parts are those of `model.block.Block`.
    """
    if not torch.is_grad_enabled() or tokens.dtype is not torch.float32 or tokens.device.type != "cpu":
        return False
    # A compiled graph holds the operations as they are, so that it is as fast; who else follows them wants plain ones.
    if not torch.is_autocast_enabled("cpu") or (watched(tokens) and not torch.compiler.is_compiling()) or exporting():
        return False
    attn, mlp = block.attn, block.mlp
    if type(attn) is not Attention or type(mlp) is not Mlp or attn.kernels != "auto":
        return False
    return all(_is_plain(module) for module in block.modules() if module not in (block, attn, mlp)) and (
        not _is_hooked(attn)
        and not _is_hooked(mlp)
        and _runs(attn.proj.in_features, mlp.fc1.out_features, torch.get_autocast_dtype("cpu"))
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _runs(width: int, middle: int, dtype: torch.dtype) -> bool:
    return ends(width, middle, dtype)


def trained_block(block: nn.Module, tokens: Tensor) -> Tensor:
    """x + path(attn(norm1(x))), then x + path(mlp(norm2(x))); (B, N, dim) in float32, as the answer."""
    attn, mlp = cast(Attention, block.attn), cast(Mlp, block.mlp)
    path1, path2 = cast(DropPath, block.drop_path1), cast(DropPath, block.drop_path2)
    qkv = _norm_linear(tokens, cast(nn.LayerNorm, block.norm1), attn.qkv)  # (B, N, 3 dim)
    tokens = _linear_add(attn.mix_of(qkv), tokens, attn.proj, path1, "none")
    hidden = _norm_linear(tokens, cast(nn.LayerNorm, block.norm2), mlp.fc1)  # (B, N, hidden)
    activation = "gelu_tanh" if mlp.act.approximate == "tanh" else "gelu"
    return _linear_add(hidden, tokens, mlp.fc2, path2, activation)


def _norm_linear(tokens: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    return trainable_norm_linear(tokens, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias)


def _linear_add(inputs: Tensor, residual: Tensor, linear: nn.Linear, path: DropPath, activation: str) -> Tensor:
    shares = path.shares(residual)
    shares = None if shares is None else shares.flatten()  # (B,)
    return trainable_linear_add(inputs, residual, linear.weight, linear.bias, shares, activation)


def _is_plain(module: nn.Module) -> bool:
    """Whether a layer is what it says, trained as a whole, in float32, and does not drop single numbers."""
    if type(module) not in LAYERS or _is_hooked(module):
        return False
    if isinstance(module, Dropout):
        return module.p == 0 or not module.training
    return all(_is_trained(parameter) for parameter in module._parameters.values() if parameter is not None)


def _is_trained(parameter: nn.Parameter) -> bool:
    plain = type(parameter) is nn.Parameter and parameter.dtype is torch.float32
    return plain and parameter.requires_grad and parameter.device.type == "cpu"


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
