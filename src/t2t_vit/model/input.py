"""Which images a network takes, and the positions of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index as as_integer

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.model.position import Grid, PositionPolicy, table_for_grid
from t2t_vit.variants import SoftSplit


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
        raise UserError(f"image_size {image_size} is no side and no (height, width) in pixels") from None
    return height, width


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
