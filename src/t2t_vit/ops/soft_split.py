"""The soft split: overlapping windows of a feature map as tokens."""

import torch.nn.functional as F
from torch import Tensor


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
