"""What is dropped during training: single numbers (dropout), residual branches (drop path), squares (drop block).

Left alone, all of them draw from torch's global generator, as everywhere. In a network that was told a seed a sample
(`SampleSeeds`), what is dropped is a function of that seed and of the place in the network: the same in every split of
a batch over processes, on every device, and when gradient checkpointing computes it again.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2t_vit.ops.splitmix import mix, sixteenths, words

_LEVELS = 2**16  # rates are rounded to multiples of 1 / 65536, so that one random word serves four numbers
_PER_PLACE = 2**32  # words that one place in the network may use for one sample


def is_drawn_in_words(like: Tensor) -> bool:
    """Whether numbers like these come from random words: a CPU draws one, for four numbers, in the time of a number."""
    return like.device.type == "cpu" and not torch.compiler.is_compiling()


class SampleSeeds:
    """The seeds of the samples in the network, shared by all in it that drops; `keys` is None where there are none."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None

    def set(self, seeds: Tensor | None) -> None:
        """(B,) int64, one a sample of the batches to come; neighbouring numbers give unrelated draws."""
        self.keys = None if seeds is None else mix(seeds)


class _Dropping(nn.Module):
    """Something that drops, at its own place in the network."""

    seeds: SampleSeeds | None = None
    place = 0

    def draw_with(self, seeds: SampleSeeds, place: int) -> None:
        """Draw from these seeds from now on; `place` tells this module from the others of the network."""
        self.seeds, self.place = seeds, place

    @property
    def keys(self) -> Tensor | None:
        """A random key a sample, or nothing where torch's own generator serves."""
        return None if self.seeds is None else self.seeds.keys

    def kept(self, like: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
        """(B, *shape), in the dtype of `like` (B, ...): 0 with probability `rate`, else 1."""
        keys, count = self.keys, math.prod(shape)
        if keys is not None:
            numbers = sixteenths(words(keys, 1 + self.place * _PER_PLACE, -(-count // 4)))  # (B, count and up to 3)
        elif is_drawn_in_words(like):
            drawn = torch.empty(like.shape[0], -(-count // 4), dtype=torch.int64).random_(-(2**63), None)
            numbers = drawn.view(torch.int16)  # (B, count and up to 3)
        else:
            return like.new_empty((like.shape[0], *shape)).bernoulli_(1 - rate)
        bound = min(round(rate * _LEVELS), _LEVELS - 1) - _LEVELS // 2
        kept = like.new_empty((like.shape[0], count))
        return torch.ge(numbers[:, :count], bound, out=kept).view(-1, *shape)


class Dropout(_Dropping, nn.Dropout):
    """Zero each number with probability `p` and divide the others by 1 - p (arXiv 1207.0580)."""

    def forward(self, input: Tensor) -> Tensor:  # (B, ...)
        if not self.training or self.p == 0:
            return input
        if self.p == 1 or (self.keys is None and not is_drawn_in_words(input)):
            return F.dropout(input, self.p)
        return input * self.kept(input, tuple(input.shape[1:]), self.p).mul_(1 / (1 - self.p))


class DropPath(_Dropping):
    """Zero a residual branch for a random share `rate` of the samples and divide the others by 1 - rate.

    Source: stochastic depth, arXiv 1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:  # (B, ...)
        shares = self.shares(branch)
        return branch if shares is None else branch * shares

    def shares(self, like: Tensor) -> Tensor | None:
        """What each sample's branch is multiplied by (B, 1, ...), in the dtype of `like` (B, ...); None: nothing."""
        if not self.training or self.rate == 0:
            return None
        shape = (1,) * (like.ndim - 1)
        if self.rate == 1:
            return like.new_zeros(like.shape[0], *shape)
        return self.kept(like, shape, self.rate) / (1 - self.rate)


class DropBlock(_Dropping):
    """Zero random squares of a feature map so that a share of about `rate` is gone; scale the rest to the same mean.

    The scale is a sample's own, where the paper takes the whole batch's: what happens to an image does not depend on
    its neighbours.

    Source: arXiv 1810.12890, with its block of 7 x 7, or the largest odd one that fits.
    """

    def __init__(self, rate: float, block: int = 7) -> None:
        super().__init__()
        self.rate = rate
        self.block = block

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W)
        if not self.training or self.rate == 0:
            return features
        channels, height, width = features.shape[1:]
        block = min(self.block, height, width)
        block -= 1 - block % 2
        centres = (height - block + 1, width - block + 1)  # a square's centre, so that all of it lies on the map
        share = min(1.0, self.rate * height * width / (block**2 * centres[0] * centres[1]))
        seeds = 1 - self.kept(features, (channels, *centres), share)
        seeds = F.pad(seeds, (block // 2,) * 4)  # (B, C, H, W)
        keep = 1 - F.max_pool2d(seeds, block, stride=1, padding=block // 2)  # (B, C, H, W)
        kept = keep.float().mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
        # Where nothing is left there is nothing to scale; elsewhere at least one number is.
        return features * (keep / kept.clamp(min=1 / keep[0].numel()).to(keep.dtype))


def share_seeds(network: nn.Module) -> SampleSeeds:
    """Let everything in `network` that drops draw from one `SampleSeeds`, each at a place of its own."""
    seeds = SampleSeeds()
    dropping = [module for module in network.modules() if isinstance(module, _Dropping)]
    for place, module in enumerate(dropping):
        module.draw_with(seeds, place)
    return seeds
