"""What is dropped whole during training: residual branches (drop path) and squares of a grid (drop block)."""

import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero a residual branch for a random share `rate` of the samples and divide the others by 1 - rate.

    Source: stochastic depth, arXiv 1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:  # (B, ...)
        if not self.training or self.rate == 0:
            return branch
        keep = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(1 - self.rate)
        return branch * (keep / (1 - self.rate))


class DropBlock(nn.Module):
    """Zero random squares of a feature map so that a share of about `rate` is gone; scale the rest to the same mean.

    Source: arXiv 1810.12890, with its block of 7 x 7, or the largest odd one that fits.
    """

    def __init__(self, rate: float, block: int = 7) -> None:
        super().__init__()
        self.rate = rate
        self.block = block

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W)
        if not self.training or self.rate == 0:
            return features
        height, width = features.shape[-2:]
        block = min(self.block, height, width)
        block -= 1 - block % 2
        centres = (height - block + 1, width - block + 1)  # a square's centre, so that all of it lies on the map
        share = min(1.0, self.rate * height * width / (block**2 * centres[0] * centres[1]))
        seeds = features.new_empty((*features.shape[:2], *centres)).bernoulli_(share)
        seeds = F.pad(seeds, (block // 2,) * 4)  # (B, C, H, W)
        keep = 1 - F.max_pool2d(seeds, block, stride=1, padding=block // 2)  # (B, C, H, W)
        return features * keep * (keep.numel() / keep.sum().clamp(min=1))
