"""What is random in a forward pass, as a function of the seed and of what it is for: nothing to save or restore."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SampleNumbers:
    """Tells a network, before each forward pass, a seed a sample: a function of (seed, step, part, global position).

    Samples that several processes share, or one has, therefore drop the same things.

    Attributes:
        tell: takes the seeds, (B,) int64; the network makes of neighbouring ones unrelated draws.
        rank: of this process; all have batches of one size.
    """

    tell: Callable[[Tensor], None]
    seed: int = 0
    rank: int = 0

    def __call__(self, images: Tensor, step: int, part: int) -> None:
        """Before `images` (B, ...), batch number `part` of update number `step`, go through the network."""
        first = (step_seed(self.seed, step, part) >> 1) + self.rank * len(images)  # room for the sum in 63 bits
        self.tell(torch.arange(len(images), device=images.device) + first)


def step_seed(seed: int, step: int, part: int) -> int:
    """A 63-bit seed for the random numbers of one update, in one process or for one of its batches."""
    digest = hashlib.blake2b(f"{seed} {step} {part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
