"""Linear layers for inference on a CPU: weights laid out once for oneDNN, what follows done in the same pass.

torch lays a weight out again at every call, which is a good part of a small batch's time.
"""

from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["none", "gelu", "gelu_tanh"]
# oneDNN's names: the activation, and its kind.
_FUSED = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}


def maker(packed: Tensor) -> str:
    """Whose product a packed weight's is: oneDNN's where it packs weights of the dtype here, else torch's."""
    return "oneDNN" if packed.is_mkldnn else "torch"


@cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of this dtype here; bfloat16 it refuses on processors with AVX2 alone."""
    operations = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    has_operations = all(hasattr(torch.ops.mkldnn, name) for name in operations)
    if not has_operations or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype is not torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_weight(weight: Tensor, rows: int) -> Tensor:
    """A weight (out, in) as what follows reads it: in oneDNN's layout, chosen for about `rows` rows, or as it is."""
    weight = weight.contiguous()
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows) if _has_onednn(weight.dtype) else weight


def packed_linear(inputs: Tensor, packed: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """activation(W x + b) for inputs (..., in) of the weight's dtype; (..., out)."""
    name, kind = _FUSED[activation]
    if packed.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, name, [], kind)
    answers = F.linear(inputs, packed, bias)
    return answers if activation == "none" else F.gelu(answers, approximate=kind)


def packed_linear_add(inputs: Tensor, packed: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """W x + b + residual, (..., out)."""
    if packed.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, packed, bias, "add")
    return F.linear(inputs, packed, bias) + residual
