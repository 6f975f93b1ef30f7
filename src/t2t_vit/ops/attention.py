"""Softmax attention, by the fastest way that the device has."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured on 2 cores with AMX: below this length torch's fused attention in bfloat16 is 2 to 5 times slower in its
# backward pass than three plain products; above it, it wins by not storing the (N, N) weights.
SHORT = 512


def attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v.

    Args:
        queries, keys, values: (B, heads, N, d).

    Returns:
        (B, heads, N, d).
    """
    # ONNX's exporter writes the fused one as 19 nodes, these as 5.
    if _trains_short_in_half(queries) or torch.onnx.is_in_onnx_export():
        weights = (queries * scale @ keys.transpose(-2, -1)).softmax(dim=-1)  # (B, heads, N, N)
        return weights.to(values.dtype) @ values
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)


def _trains_short_in_half(queries: Tensor) -> bool:
    on_cpu = queries.device.type == "cpu" and queries.requires_grad
    return on_cpu and queries.dtype is torch.bfloat16 and queries.shape[-2] <= SHORT
