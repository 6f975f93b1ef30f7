"""The soft split: overlapping windows of a feature map as tokens, and the way back."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Window(NamedTuple):
    """A soft split's windows: their side, how far apart they are, and the zeros around the map, in pixels of it."""

    kernel: int
    stride: int
    padding: int

    def grid(self, features: Tensor) -> tuple[int, int]:
        """Rows and columns of windows on a map (B, C, H, W)."""
        rows, columns = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in features.shape[2:])
        return rows, columns


def soft_split(features: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Windows of `features` as tokens, zero padded; channels vary slowest inside a token (c, row, column).

    Args:
        features: (B, C, H, W).
        kernel: side of a window; `stride` apart, the map padded by `padding`, all in pixels of the map.

    Returns:
        (B, N, C * kernel * kernel), N = floor((H + 2 padding - kernel) / stride + 1) times the same of W, row by row.

    Source: arXiv 2101.11986, section 3.1, "Soft Split".
    """
    return F.unfold(features, kernel_size=kernel, stride=stride, padding=padding).transpose(1, 2)


def soft_split_by_slices(features: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The windows of `soft_split`, made of slices alone: for graphs, where unfolding becomes gathers.

    Channels vary fastest inside a token (column, row, c): see `slices_order`. Sizes may be symbols.

    Args:
        features: (B, H, W, C), channels last.

    Returns:
        (B, rows, columns, kernel * kernel * C).
    """
    padded = F.pad(features, (0, 0, padding, padding, padding, padding))
    # From the i-th pixel to as many before the end as a window still needs.
    steps = [slice(i, (i - kernel + 1) or None, stride) for i in range(kernel)]
    rows = torch.cat([padded[:, step] for step in steps], dim=3)  # (B, rows, W + 2 padding, kernel C)
    return torch.cat([rows[:, :, step] for step in steps], dim=3)


def slices_order(channels: int, kernel: int) -> Tensor:
    """Which channel of a token of `soft_split` stands at each place of one of `soft_split_by_slices`: (C k k,)."""
    return torch.arange(channels * kernel**2).view(channels, kernel, kernel).permute(2, 1, 0).flatten()


def inverse_soft_split(
    tokens: Tensor, size: tuple[int, int], kernel: int, stride: int, padding: int, *, average: bool = True
) -> Tensor:
    """Tokens put back as windows of a map of (height, width) `size`; what overlaps is averaged, or summed.

    With `average` it undoes `soft_split` of that size, except for pixels at the lower and right edge that no window
    reached: those are 0. Decoders that learn the weights of the windows (a linear layer before) take the sum.

    Args:
        tokens: (B, N, C * kernel * kernel), row by row, N as `soft_split` gives it for `size`.

    Returns:
        (B, C, height, width).

    Source: arXiv 2104.12099 (Visual Saliency Transformer), section 3.3, "reverse T2T".
    """
    windows = tokens.transpose(1, 2)  # (B, C k k, N)
    summed = F.fold(windows, size, kernel_size=kernel, stride=stride, padding=padding)  # (B, C, H, W)
    if not average:
        return summed
    ones = windows.new_ones(1, kernel * kernel, windows.shape[2])
    counts = F.fold(ones, size, kernel_size=kernel, stride=stride, padding=padding)  # (1, 1, H, W)
    return summed / counts.clamp(min=1)
