"""The soft split's windows by the compiled kernel, normalised as they are made."""

import ctypes

import torch
from torch import Tensor

from t2t_vit.fast.native.arguments import SUFFIX, address, threads, whole
from t2t_vit.fast.native.library import library


def native_windows(
    features: Tensor,
    split: tuple[int, int, int],
    length: int,
    dtype: torch.dtype,
    eps: float | None,
) -> Tensor:
    """Windows as tokens, channels fastest inside a token (row, column, c); no gradient.

    Args:
        features: (B, C, H, W) of any strides, float32, or bfloat16 where `dtype` is.
        split: kernel, stride and padding in pixels of the map.
        length: of a token in memory, C kernel kernel or more; what is beyond is 0.
        dtype: of the tokens, float32 or bfloat16.
        eps: (x - mean) / sqrt(variance + eps) of each window, as LayerNorm without weight and bias; None: as it is.

    Returns:
        (B, N, length).
    """
    kernel, stride, padding = split
    batch, channels, height, width = features.shape
    rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    tokens = features.new_empty(batch, rows * columns, length, dtype=dtype)
    run = getattr(library(), f"windows_{SUFFIX[features.dtype]}_{SUFFIX[dtype]}")
    run(
        address(features),
        address(tokens),
        whole(batch, channels, height, width, *features.stride()),
        whole(kernel, stride, padding),
        ctypes.c_int64(length),
        ctypes.c_int(eps is not None),
        ctypes.c_float(eps or 0.0),
        threads(),
    )
    return tokens
