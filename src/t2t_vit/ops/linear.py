"""A linear layer."""

import torch.nn.functional as F
from torch import Tensor


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, kernels: str = "auto") -> Tensor:
    """W x + b for inputs (..., in), weight (out, in) and bias (out,): (..., out)."""
    return F.linear(inputs, weight, bias)
