"""A linear layer by the fastest way that the device has at the same precision."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2t_vit.ops.kernels import exporting, watched
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
    if kernels != "auto" or not _is_native(inputs, weight, bias):
        return F.linear(inputs, weight, bias)
    rows = inputs.reshape(-1, inputs.shape[-1])  # (R, in)
    return native_product(rows, weight, bias, right_along=True).view(*inputs.shape[:-1], len(weight))  # (..., out)


def _is_native(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if exporting():
        return False
    given = [tensor for tensor in (inputs, weight, bias) if tensor is not None]
    # Subclasses are quantised or distributed, whatever dtype they show.
    if any(type(tensor) not in (Tensor, nn.Parameter) or tensor.dtype is not torch.float32 for tensor in given):
        return False
    if any(tensor.device.type != "cpu" for tensor in given) or torch.is_autocast_enabled("cpu"):
        return False
    if inputs.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != (len(weight),)):
        return False  # torch's own product says what is wrong
    compiling = torch.compiler.is_compiling()
    if (watched(inputs) and not compiling) or not _multiplies(weight):
        return False
    # A compiled graph is for any batch, so it does not ask for its size.
    return compiling or inputs.numel() * len(weight) >= LEAST


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _multiplies(weight: Tensor) -> bool:
    return multiplies(weight)
