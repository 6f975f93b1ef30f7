"""The backbone's block as few operations for training on a CPU: the same numbers to rounding, sooner."""

from typing import cast

import torch
from torch import Tensor, nn

from t2t_vit.model.attention import Attention
from t2t_vit.model.drop import Dropout, DropPath
from t2t_vit.model.linear import Linear, is_plain
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
    attn, mlp = cast(Attention, block.attn), cast(Mlp, block.mlp)
    if not is_plain(attn, Attention) or not is_plain(mlp, Mlp) or attn.kernels != "auto" or not tokens.numel():
        return False
    if not all(_is_trained(module) for module in block.modules() if module not in (block, attn, mlp)):
        return False
    lengths = _lengths(block)
    return lengths is not None and lengths[0] == tokens.shape[-1] and _runs(*lengths, torch.get_autocast_dtype("cpu"))


def _lengths(block: nn.Module) -> tuple[int, int] | None:
    """The lengths of tokens and hidden tokens, where the layers that have to know them agree and none lacks a part."""
    norm1, norm2 = cast(nn.LayerNorm, block.norm1), cast(nn.LayerNorm, block.norm2)
    attn, mlp = cast(Attention, block.attn), cast(Mlp, block.mlp)
    if any(part is None for part in (norm1.weight, norm1.bias, norm2.weight, norm2.bias, attn.proj.bias, mlp.fc2.bias)):
        return None
    dim, hidden = attn.proj.out_features, mlp.fc1.out_features
    shapes = [linear.weight.shape for linear in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2)]
    agree = shapes == [(3 * dim, dim), (dim, dim), (hidden, dim), (dim, hidden)]
    return (dim, hidden) if agree and norm1.normalized_shape == norm2.normalized_shape == (dim,) else None


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


def _is_trained(module: nn.Module) -> bool:
    """Whether a layer is what it says, trained as a whole, in float32, and does not drop single numbers."""
    if not is_plain(module, *LAYERS):
        return False
    if isinstance(module, Dropout):
        return module.p == 0 or not module.training
    parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
    return all(part.requires_grad and part.dtype is torch.float32 and part.device.type == "cpu" for part in parameters)
