"""Linear layers for inference on a CPU: weights laid out once for oneDNN, what follows done in the same pass.

torch lays a weight out anew at every call, which is a good part of a small batch's time.
"""

from typing import Literal

import torch
from torch import Tensor

Activation = Literal["none", "gelu", "gelu_tanh"]
# oneDNN's names: the activation, and its kind.
_FUSED = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights of `dtype` can be packed there: on a CPU, by a torch with oneDNN and its packing."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return False
    has_operations = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return bool(torch.backends.mkldnn.is_available()) and has_operations  # type: ignore[no-untyped-call]


def pack_weight(weight: Tensor, rows: int) -> Tensor:
    """A weight (out, in) in oneDNN's own layout, chosen for inputs of about `rows` rows; only what follows reads it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def packed_linear(inputs: Tensor, packed: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """activation(W x + b) for inputs (..., in) of the weight's dtype; (..., out)."""
    name, kind = _FUSED[activation]
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, name, [], kind)


def packed_linear_add(inputs: Tensor, packed: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """W x + b + residual, (..., out)."""
    return torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, packed, bias, "add")
