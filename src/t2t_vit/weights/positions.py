"""The position table for another grid."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Position = Literal["rebuild", "resize"]


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """The stored table, its class row kept and its square of patch rows resized (bicubic) to `grid`, as the authors do.

    Args:
        table: (1, 1 + side * side, dim).
        grid: (height, width) in tokens.

    Returns:
        (1, 1 + height * width, dim), or None where the stored rows form no square.
    """
    side = math.isqrt(max(0, table.shape[1] - 1))
    if side == 0 or side * side != table.shape[1] - 1:
        return None
    first, patches = table[:, :1], table[:, 1:]  # (1, 1, dim), (1, side * side, dim)
    square = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, dim, side, side)
    resized = interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([first.float(), resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1).to(table.dtype)
