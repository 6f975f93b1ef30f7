"""Softmax attention by the compiled kernels."""

import ctypes

import torch
from torch import Tensor, nn

from t2t_vit.fast.native.arguments import address, threads, whole
from t2t_vit.fast.native.layer import NativeLayer
from t2t_vit.fast.native.library import library, unavailable

LONGEST = 256  # of a head


def can_attend(head_dim: int, dtype: torch.dtype) -> bool:
    """Whether `native_attention` takes heads of this length here: in bfloat16."""
    return head_dim % 32 == 0 and head_dim <= LONGEST and dtype is torch.bfloat16 and unavailable() is None


def native_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale q k^T) v for each head; weights are rounded to bfloat16 before they meet the values, no gradient.

    Args:
        qkv: (B, N, 3 heads d) in bfloat16, contiguous: queries, keys and values, each head by head.

    Returns:
        (B, N, heads d).
    """
    batch, length, width = qkv.shape
    out = qkv.new_empty(batch, length, width // 3)
    library().attention_bf16(
        address(qkv),
        address(out),
        whole(batch, length, heads, width // 3 // heads),
        ctypes.c_float(scale),
        threads(),
    )
    return out


def native_mix(tokens: Tensor, norm: nn.LayerNorm, qkv: NativeLayer, heads: int, scale: float) -> Tensor:
    """`native_attention` of qkv(norm(tokens)), an image at a time and each thread its own; no gradient.

    Args:
        tokens: (B, N, dim) in bfloat16, contiguous; dim is a multiple of 32, as are the heads.

    Returns:
        (B, N, dim).
    """
    batch, length, dim = tokens.shape
    out = torch.empty_like(tokens)
    library().mix_bf16(
        address(tokens),
        address(norm.weight),
        address(norm.bias),
        ctypes.c_float(norm.eps),
        address(qkv.weight),
        address(qkv.bias),
        address(out),
        whole(batch, length, heads, dim // heads),
        ctypes.c_float(scale),
        threads(),
    )
    return out
