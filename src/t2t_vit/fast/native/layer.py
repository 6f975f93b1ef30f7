"""A linear layer as the compiled kernels read it."""

from typing import NamedTuple

import torch
from torch import Tensor


class NativeLayer(NamedTuple):
    """A linear layer as the kernels read it.

    weight  (out / 16, in / 32, 16, 16, 2) in bfloat16: tiles of the matrix unit
    bias    (out,) in float32
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> "NativeLayer":
        """From a weight (out, in) in bfloat16 and a bias (out,)."""
        out, features = weight.shape
        tiles = weight.detach().reshape(out // 16, 16, features // 32, 16, 2).permute(0, 2, 3, 1, 4).contiguous()
        return cls(tiles, torch.zeros(out, device="cpu") if bias is None else bias.detach().float().contiguous())
