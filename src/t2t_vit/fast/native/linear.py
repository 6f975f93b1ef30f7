"""Linear layers in float32 by the compiled kernels, out of products in bfloat16: parts.h and linear.cpp say how."""

from typing import NamedTuple

import torch
from torch import Tensor

from t2t_vit.fast.native.arguments import address, check, threads, whole
from t2t_vit.fast.native.library import has_tiles, library
from t2t_vit.fast.native.tail import ACTIVATIONS

LINES, DEPTH, PARTS = 32, 32, 3  # lines and depth are filled up with zeros to multiples of these
NARROW = 128  # below this length torch's own products are as fast


def can_multiply_float32(weight: Tensor) -> bool:
    """Whether products with this weight are for `native_linear`: in float32, of some width, with a matrix unit.

    Elsewhere six products in bfloat16 take longer than one in float32.
    """
    return weight.dtype is torch.float32 and min(weight.shape) >= NARROW and has_tiles()


class PartedLayer(NamedTuple):
    """A linear layer in float32 as the kernel reads it.

    weight  its three parts, which are bfloat16, as linear.cpp lays them out
    bias    (out,) or None
    width   out
    depth   in
    """

    weight: Tensor
    bias: Tensor | None
    width: int
    depth: int

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> "PartedLayer":
        """From a weight (out, in) and a bias (out,) in float32."""
        weight = weight.detach().contiguous()
        lines, depth = (-(-side // unit) * unit for side, unit in zip(weight.shape, (LINES, DEPTH), strict=True))
        parts = torch.empty(lines * depth * PARTS, dtype=torch.bfloat16, device="cpu")
        library().lay_out_f32(address(weight), whole(*weight.shape), address(parts), threads())
        return cls(parts, None if bias is None else bias.detach().contiguous(), *weight.shape)


def native_linear(
    inputs: Tensor, layer: PartedLayer, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """activation(W x + b) + residual; no gradient.

    Args:
        inputs: (..., in) in float32.
        residual: (..., out) in float32.

    Returns:
        (..., out).
    """
    check(inputs.dtype is torch.float32 and inputs.shape[-1] == layer.depth, "native_linear")
    rows = inputs.reshape(-1, layer.depth).contiguous()
    out = inputs.new_empty(*inputs.shape[:-1], layer.width)
    added = None if residual is None else residual.contiguous()
    check(added is None or (added.dtype is torch.float32 and added.shape == out.shape), "native_linear")
    library().product_f32(
        address(rows),
        address(layer.weight),
        address(layer.bias),
        address(added),
        address(out),
        whole(*rows.shape, layer.width, ACTIVATIONS.index(activation)),
        threads(),
    )
    return out
