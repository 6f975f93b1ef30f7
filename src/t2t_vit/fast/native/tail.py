"""What is behind an attention, by the compiled kernel: projection, residual, LayerNorm and MLP."""

import ctypes

import torch
from torch import Tensor, nn

from t2t_vit.fast.native.arguments import address, threads, whole
from t2t_vit.fast.native.layer import NativeLayer
from t2t_vit.fast.native.library import library, unavailable

ACTIVATIONS = ("none", "gelu", "gelu_tanh")  # in the kernels' order
SIDE = 32  # lengths are multiples of it


def can_run_tail(proj: Tensor, fc1: Tensor, fc2: Tensor) -> bool:
    """Whether `native_tail` takes layers of these weights here: in bfloat16, the tokens as long before as behind."""
    middle, width = fc1.shape
    fits = proj.shape == (width, width) and fc2.shape == (width, middle) and width % SIDE == 0 and middle % SIDE == 0
    return fits and proj.dtype is torch.bfloat16 and unavailable() is None


def native_tail(
    mixed: Tensor,
    residual: Tensor,
    norm: nn.LayerNorm,
    layers: tuple[NativeLayer, NativeLayer, NativeLayer],
    activation: str,
) -> Tensor:
    """What is behind an attention: tokens = residual + proj(mixed), then tokens + fc2(activation(fc1(norm(tokens)))).

    Args:
        mixed: (..., C) in bfloat16, contiguous.
        residual: (..., C) in bfloat16, whose rows may lie apart but evenly.
        layers: proj, fc1 and fc2.

    Returns:
        (..., C); no gradient.
    """
    width = mixed.shape[-1]
    out = torch.empty_like(mixed)
    pointers = ctypes.c_void_p * len(layers)
    sizes = (mixed.numel() // width, width, len(layers[1].bias), residual.stride(-2), ACTIVATIONS.index(activation))
    library().tail_bf16(
        address(mixed),
        address(residual),
        address(norm.weight),
        address(norm.bias),
        ctypes.c_float(norm.eps),
        pointers(*(layer.weight.data_ptr() for layer in layers)),
        pointers(*(layer.bias.data_ptr() for layer in layers)),
        address(out),
        whole(*sizes),
        threads(),
    )
    return out
