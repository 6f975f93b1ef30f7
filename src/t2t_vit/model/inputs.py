"""Which images a network takes, the preprocessing it expects, and the fixed positions of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index as as_integer
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.variants import SoftSplit, Variant

Grid = tuple[int, int]
# Of a size that a file asks for. Its position table has a row for each, and attention looks at the square of them.
MOST_TOKENS = 128 * 128
# What another input size does to positions: the formula again, or the table that is there, stretched.
PositionPolicy = Literal["rebuild", "resize"]

_FIRST_LAYER = {
    "performer": "tokens_to_token.attention1.kqv",
    "transformer": "tokens_to_token.attention1.attn.qkv",
    "convolution": "tokens_to_token.soft_split0",
    "stem": "tokens_to_token.stage0.conv",
}


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


def resized_table(table: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """A table of `grid` stretched to `new_grid`, bicubic; the class token's row stays as it is.

    Args:
        table: (1, 1 + grid[0] * grid[1], dim).

    Returns:
        (1, 1 + new_grid[0] * new_grid[1], dim), in the table's dtype; the table itself where the grids are one.

    Raises:
        ValueError: the table is not of `grid`.

    Source: the authors' `resize_pos_embed`, for square grids there.
    """
    if table.shape[1] != 1 + grid[0] * grid[1]:
        raise ValueError(
            f"a position table of {table.shape[1]} rows does not match a grid of {grid[0]} x {grid[1]} tokens"
        )
    return table if grid == new_grid else stretched_table(table, grid, new_grid)


def stretched_table(table: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """As `resized_table`, without its check and its shortcut: the sides of `new_grid` may be symbols of a graph."""
    places = table[:, 1:].float().transpose(1, 2).reshape(1, table.shape[2], *grid)  # (1, dim, height, width)
    stretched = F.interpolate(places, size=new_grid, mode="bicubic").flatten(2).transpose(1, 2)
    return torch.cat([table[:, :1], stretched.to(table.dtype)], dim=1)


def table_for_grid(table: Tensor, grid: Grid, new_grid: Grid, policy: PositionPolicy) -> Tensor:
    """The position table of `new_grid` for a network that has `table` for `grid`.

    "rebuild" computes the formula again, as the authors do when they build a network for another size: right where
    training follows. "resize" stretches the table, as they do when they load weights: what a token learned to find
    beside itself stays there.

    Raises:
        UserError: another policy.
    """
    if policy == "rebuild":
        rebuilt = sinusoid_table(1 + new_grid[0] * new_grid[1], table.shape[2])
        return rebuilt.to(device=table.device, dtype=table.dtype)
    if policy == "resize":
        return resized_table(table, grid, new_grid)
    raise UserError(f"position '{policy}' is not known; choose one of {', '.join(get_args(PositionPolicy))}")


@dataclass(frozen=True)
class Expected:
    """What `positions_for` has to know of a network called `name`; see the arguments of `T2TViT`."""

    name: str
    splits: tuple[SoftSplit, ...]
    in_chans: int
    image_size: tuple[int, int]
    other_sizes: PositionPolicy | None


def grid_of(images: Tensor, splits: tuple[SoftSplit, ...]) -> Grid:
    """Tokens (rows, columns) that images (B, C, height, width) become."""
    return _grid((images.shape[2], images.shape[3]), splits)


def size_of(image_size: int | Sequence[int]) -> Grid:
    """(height, width) of one side or of both, in pixels.

    Raises:
        UserError: it is neither.
    """
    try:
        height, width = (as_integer(side) for side in ([image_size] * 2 if isinstance(image_size, int) else image_size))
    except (TypeError, ValueError):
        raise UserError(f"image_size {image_size} is neither a side nor (height, width) in pixels") from None
    return height, width


def check_tokens(variant: Variant, size: Grid) -> None:
    """Refuse an image of (height, width) pixels that has more than `MOST_TOKENS` tokens.

    Raises:
        UserError: it has, or it is too small.
    """
    height, width = variant.grids(size)[-1]
    if height * width > MOST_TOKENS:
        raise UserError(
            f"images of {size[0]} x {size[1]} pixels have {height} x {width} tokens; a file may ask for at most "
            f"{MOST_TOKENS:,}, those of 2048 x 2048 pixels"
        )


def positions_for(images: Tensor, pos_embed: Tensor, expected: Expected) -> Tensor:
    """The position table (1, 1 + N, dim) of these images, given that of the size that the network was built for.

    Raises:
        ValueError: the images are not of the channels that the network was built for; or not of the size, and other
            sizes are not taken.
    """
    got, wanted = tuple(images.shape[1:]), (expected.in_chans, *expected.image_size)
    if got == wanted:
        return pos_embed
    if got[0] != expected.in_chans or expected.other_sizes is None:
        raise ValueError(
            f"{expected.name} was built for images of {wanted}, got {got}: build it with that image_size and in_chans, "
            "or call set_input_size"
        )
    built = _grid(expected.image_size, expected.splits)
    return table_for_grid(pos_embed, built, grid_of(images, expected.splits), expected.other_sizes)


def _grid(size: Grid, splits: tuple[SoftSplit, ...]) -> Grid:
    for split in splits:
        size = split.grid(*size)
    return size


def default_cfg(variant: Variant, num_classes: int, in_chans: int, image_size: tuple[int, int]) -> dict[str, Any]:
    """The authors' preprocessing for a network of that row: ImageNet's statistics, bicubic, crop of 0.9."""
    return {
        "input_size": (in_chans, *image_size),
        "fixed_input_size": True,
        "pool_size": variant.grids(image_size)[-1],
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": _for_channels((0.485, 0.456, 0.406), in_chans),
        "std": _for_channels((0.229, 0.224, 0.225), in_chans),
        "num_classes": num_classes,
        "classifier": "head",
        "first_conv": _FIRST_LAYER[variant.tokens],
    }


def _for_channels(rgb: tuple[float, ...], in_chans: int) -> tuple[float, ...]:
    """Statistics of RGB as a configuration takes them: their mean for grey, and 0.5 beside them for alpha."""
    if in_chans == 1:
        return (sum(rgb) / len(rgb),)
    return (*rgb, 0.5) if in_chans == 4 else rgb
