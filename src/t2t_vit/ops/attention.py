"""Softmax attention, and the weights that it never stores."""

import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops.performer import without_autocast

# With a matrix unit torch's fused attention multiplies bfloat16 there; without one it is slower than in float32.
_capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # torch 2.11 has none
CPU_HAS_A_MATRIX_UNIT = bool(_capabilities.get("amx_bf16"))


def self_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale q k^T) v for each head.

    Args:
        qkv: (B, N, 3 heads d): queries, keys and values, each head by head.

    Returns:
        (B, N, heads d), the heads side by side.
    """
    q, k, v = qkv.chunk(3, dim=-1)  # (B, N, heads d) each
    mixed = attention(split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), scale)  # (B, heads, N, d)
    return mixed.transpose(1, 2).flatten(2)


def split_heads(part: Tensor, heads: int) -> Tensor:
    """(B, N, heads d) -> (B, heads, N, d)."""
    batch, length, dim = part.shape[0], part.shape[1], part.shape[2]
    return part.view(batch, length, heads, dim // heads).transpose(1, 2)


def attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v. Half precision on a CPU without a matrix unit is computed in float32: faster, more exact.

    Args:
        queries, keys, values: (B, heads, N, d).

    Returns:
        (B, heads, N, d) in their dtype.

    Measured by benchmarks/attention.py.
    """
    half = queries.dtype in (torch.bfloat16, torch.float16)
    if half and queries.device.type == "cpu" and not CPU_HAS_A_MATRIX_UNIT:
        with without_autocast(queries.device):
            mixed = F.scaled_dot_product_attention(queries.float(), keys.float(), values.float(), scale=scale)
        return mixed.to(values.dtype)
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)


def softmax_weights(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) in float32: (B, heads, N, d) twice -> (B, heads, N, N); each row sums to 1."""
    return (queries.float() * scale @ keys.float().transpose(-2, -1)).softmax(dim=-1)
