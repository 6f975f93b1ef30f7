"""A linear layer by the fastest way that the device has at the same precision."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from t2t_vit.ops.kernels import exporting, transforming
from t2t_vit.ops.native import multiplies, native_product

LEAST = 2**23  # multiply-adds of a product, below which a call costs more than it saves


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, kernels: str = "auto") -> Tensor:
    """W x + b.

    Args:
        inputs: (..., in).
        weight, bias: (out, in) and (out,).
        kernels: "auto" takes the compiled kernels for float32 on a CPU where they run (`native_product`), which are
            faster than torch's products there and no less exact; every other name torch's.

    Returns:
        (..., out).
    """
    if kernels != "auto" or not _is_native(inputs, weight):
        return F.linear(inputs, weight, bias)
    rows = inputs.reshape(-1, inputs.shape[-1])  # (R, in)
    return native_product(rows, weight, bias, right_along=True).view(*inputs.shape[:-1], -1)  # (..., out)


def _is_native(inputs: Tensor, weight: Tensor) -> bool:
    of_float = inputs.dtype is torch.float32 is weight.dtype
    if not of_float or inputs.device.type != "cpu" or weight.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    if exporting() or transforming() or forward_ad._current_level >= 0 or not _multiplies(weight):
        return False
    # A compiled graph is for any batch, so it does not ask for its size.
    return torch.compiler.is_compiling() or inputs.numel() * len(weight) >= LEAST


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _multiplies(weight: Tensor) -> bool:
    return multiplies(weight)
