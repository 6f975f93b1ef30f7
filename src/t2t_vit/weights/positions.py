"""A stored position table for another grid, where the file does not say of which grid it is."""

import math

from torch import Tensor

from t2t_vit.model.position import resized_table


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """The stored table, its class row kept and its square of patch rows resized (bicubic) to `grid`.

    Args:
        table: (1, 1 + side * side, dim).
        grid: (height, width) in tokens.

    Returns:
        (1, 1 + height * width, dim), or None where the stored rows form no square.
    """
    side = math.isqrt(max(0, table.shape[1] - 1))
    if side == 0 or side * side != table.shape[1] - 1:
        return None
    return resized_table(table, (side, side), grid)
