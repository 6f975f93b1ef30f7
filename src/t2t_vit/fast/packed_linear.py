"""Linear layers for inference on a CPU: weights laid out once for oneDNN, what follows done in the same pass.

torch lays a weight out anew at every call, which is a good part of a small batch's time.
"""

from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["none", "gelu", "gelu_tanh"]
# oneDNN's names: the activation, and its kind.
_FUSED = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}


def maker() -> str:
    """Whose product a packed linear layer is: oneDNN's where torch was built with it, else torch's own."""
    return "oneDNN" if _has_onednn() else "torch"


@cache
def _has_onednn() -> bool:
    operations = ("_reorder_linear_weight", "_linear_pointwise")
    has_operations = all(hasattr(torch.ops.mkldnn, name) for name in operations)
    return bool(torch.backends.mkldnn.is_available()) and has_operations  # type: ignore[no-untyped-call]


def pack_weight(weight: Tensor, rows: int) -> Tensor:
    """A weight (out, in) in oneDNN's own layout, chosen for inputs of about `rows` rows; only what follows reads it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows) if _has_onednn() else weight


def packed_linear(inputs: Tensor, packed: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """activation(W x + b) for inputs (..., in) of the weight's dtype; (..., out)."""
    name, kind = _FUSED[activation]
    if _has_onednn():
        return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, name, [], kind)
    answers = F.linear(inputs, packed, bias)
    return answers if activation == "none" else F.gelu(answers, approximate=kind)


def packed_linear_add(inputs: Tensor, packed: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """W x + b + residual, (..., out)."""
    if _has_onednn():
        return torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, packed, bias, "add")
    return F.linear(inputs, packed, bias) + residual
