"""Softmax attention, by the fastest way that the device has."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured on 2 cores with AMX: below this length torch's fused attention in bfloat16 is 2 to 5 times slower in its
# backward pass than three plain products; above it, it wins by not storing the (N, N) weights.
SHORT = 512


def self_attention(qkv: Tensor, heads: int, scale: float, kernels: str = "auto") -> Tensor:
    """softmax(scale q k^T) v for each head.

    Args:
        qkv: (B, N, 3 heads d): queries, keys and values, each head by head.
        kernels: "auto" trains in bfloat16 on a CPU by the compiled kernels where they run; every other name by torch.

    Returns:
        (B, N, heads d), the heads side by side.
    """
    queries, keys, values = (split_heads(part, heads) for part in qkv.chunk(3, dim=-1))  # (B, h, N, d) each
    mixed = attention(queries, keys, values, scale)  # (B, h, N, d)
    return mixed.transpose(1, 2).flatten(2)


def split_heads(part: Tensor, heads: int) -> Tensor:
    """(B, N, heads d) -> (B, heads, N, d)."""
    batch, length, dim = part.shape
    return part.view(batch, length, heads, dim // heads).transpose(1, 2)


def attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v.

    Args:
        queries, keys, values: (B, heads, N, d).

    Returns:
        (B, heads, N, d).
    """
    if _trains_short_in_half(queries):
        return _three_products(queries, keys, values, scale)
    if torch.onnx.is_in_onnx_export():  # the exporter writes the fused one as 19 nodes, these as 5
        return (queries * scale @ keys.transpose(-2, -1)).softmax(dim=-1) @ values
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)


def _three_products(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Without autocast, which keeps the weights in float32 and rounds a copy: softmax sums in float32 by itself."""
    with torch.autocast(queries.device.type, enabled=False):
        q, k, v = (part.flatten(0, 1) for part in (queries, keys, values))  # (B heads, N, d)
        scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)  # (B heads, N, N)
        return torch.bmm(scores.softmax(dim=-1), v).view(queries.shape)  # (B, heads, N, d)


def _trains_short_in_half(queries: Tensor) -> bool:
    on_cpu = queries.device.type == "cpu" and queries.requires_grad
    return on_cpu and queries.dtype is torch.bfloat16 and queries.shape[-2] <= SHORT
