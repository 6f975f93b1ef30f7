"""Performer attention by the compiled kernel."""

import ctypes

import torch
from torch import Tensor

from t2t_vit.fast.native.arguments import SUFFIX, address, threads, whole
from t2t_vit.fast.native.library import library, unavailable

COUNTS = (16, 32)  # of random features that the kernel was written for
LONGEST = 128  # of a key


def can_run_performer(dim: int, features: int, dtype: torch.dtype) -> bool:
    """Whether `native_performer` takes tokens of `dim` numbers and so many random features here."""
    fits = features in COUNTS and dim % 16 == 0 and dim <= LONGEST
    return fits and dtype in SUFFIX and unavailable() is None


def native_performer(kqv: Tensor, features: Tensor, epsilon: float) -> Tensor:
    """`ops.performer.performer_attention`, computed in float32; no gradient.

    Args:
        kqv: (B, T, 3 E) in float32 or bfloat16, contiguous: keys, queries and values.
        features: W turned over, (E, m) in float32.
        epsilon: what is added to the denominator.

    Returns:
        (B, T, E).
    """
    batch, length, width = kqv.shape
    dim = width // 3
    out = kqv.new_empty(batch, length, dim)
    keys, queries, values = kqv.chunk(3, dim=-1)
    getattr(library(), f"performer_{SUFFIX[kqv.dtype]}")(
        address(queries),
        address(keys),
        address(values),
        address(out),
        address(features),
        whole(batch, length, dim, dim, width),
        ctypes.c_int64(features.shape[1]),
        ctypes.c_float(epsilon),
        threads(),
    )
    return out
