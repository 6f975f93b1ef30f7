"""The fixed position table."""

import torch
from torch import Tensor


def sinusoid_table(length: int, dim: int) -> Tensor:
    """(1, length, dim) in float32: angle(p, i) = p / 10000^(2 floor(i / 2) / dim), even i its sine, odd i its cosine.

    One-dimensional over the flat sequence, whose first entry (p = 0) is the class token.

    Source: arXiv 1706.03762, section 3.5; computed in float64 as the authors do.
    """
    positions = torch.arange(length, dtype=torch.float64).unsqueeze(1)  # (length, 1)
    pairs = torch.arange(dim, dtype=torch.float64).div(2, rounding_mode="floor")  # (dim,)
    angles = positions / torch.pow(10000.0, 2 * pairs / dim)  # (length, dim)
    table = torch.empty_like(angles)
    table[:, 0::2] = angles[:, 0::2].sin()
    table[:, 1::2] = angles[:, 1::2].cos()
    return table.float().unsqueeze(0)
