"""Resized crops of a whole batch on its device: to the bit what Pillow makes of the images one by one."""

import PIL
import torch
from torch import Tensor

ROWS_MAY_BE_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_BITS = 22  # Pillow multiplies pixels by whole numbers of 2^-22


def resized_crops(images: Tensor, boxes: Tensor, size: tuple[int, int], bicubic: Tensor) -> Tensor:
    """As `image.crop(box).resize((width, height), filter)` of each image.

    Pillow resizes the columns and then the rows, each by whole numbers and rounded to 8 bits; from version 13 on the
    rows come first where they lose more than twice as many pixels as the columns. The sums are exact in float64, in any
    order, so that products of matrices give the same pixels (libImaging/Resample.c).

    Args:
        images: uint8 (B, C, H, W).
        boxes: int64 (B, 4): left, top, right, bottom, within the images.
        size: height, width of the result.
        bicubic: bool (B,), whether the filter is bicubic; else bilinear.

    Returns:
        uint8 (B, C, *size).
    """
    left, top, right, bottom = boxes.unbind(1)
    by_column = _weights(left, right, images.shape[3], size[1], bicubic)  # (B, width, W)
    by_row = _weights(top, bottom, images.shape[2], size[0], bicubic)  # (B, height, H)
    by_column, by_row = by_column.transpose(1, 2).unsqueeze(1), by_row.unsqueeze(1)
    pixels = images.double()
    resized = _rounded(by_row @ _rounded(pixels @ by_column))  # (B, C, height, width)
    if ROWS_MAY_BE_FIRST:
        fewer_rows, fewer_columns = bottom - top - size[0], right - left - size[1]
        rows_first = (fewer_rows > 0) & (fewer_rows > 2 * fewer_columns)
        resized = torch.where(rows_first.view(-1, 1, 1, 1), _rounded(_rounded(by_row @ pixels) @ by_column), resized)
    return resized.byte()


def _rounded(sums: Tensor) -> Tensor:
    return sums.add_(2.0 ** (_BITS - 1)).mul_(2.0**-_BITS).floor_().clamp_(0.0, 255.0)


def _weights(start: Tensor, end: Tensor, length: int, count: int, bicubic: Tensor) -> Tensor:
    """What each of `length` pixels adds to each of `count`, in units of 2^-22: float64 (B, count, length)."""
    kinds = [_one_kind(start, end, length, count, kind) for kind in ("bilinear", "bicubic")]
    return torch.where(bicubic.view(-1, 1, 1), kinds[1], kinds[0])


def _one_kind(start: Tensor, end: Tensor, length: int, count: int, kind: str) -> Tensor:
    """Every operation in the order of Pillow's, each rounded on its own."""
    device = start.device
    pixels = (end - start).double().view(-1, 1)  # (B, 1)
    scale = pixels / count
    widened = scale.clamp(min=1.0)
    support = _SUPPORT[kind] * widened
    centre = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * scale  # (B, count)
    first = (centre - support + 0.5).trunc().clamp(min=0.0).unsqueeze(2)
    last = torch.minimum((centre + support + 0.5).trunc(), pixels).unsqueeze(2)
    place = torch.arange(length, dtype=torch.float64, device=device) - start.view(-1, 1, 1)  # (B, 1, length)
    distance = ((place - centre.unsqueeze(2) + 0.5) * (1.0 / widened).unsqueeze(2)).abs()  # (B, count, length)
    curve = _bicubic(distance) if kind == "bicubic" else (1.0 - distance).clamp(min=0.0)
    weights = torch.where((place >= first) & (place < last), curve, 0.0)
    total = torch.zeros_like(centre)
    for column in weights.unbind(2):  # a sum in another order would be rounded otherwise
        total = total + column
    units = weights / total.unsqueeze(2) * 2.0**_BITS
    return (units + torch.where(units < 0.0, -0.5, 0.5)).trunc()


def _bicubic(distance: Tensor) -> Tensor:
    """The cubic filter with a = -1/2, of distances of at least 0."""
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5
    return torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, 0.0))
