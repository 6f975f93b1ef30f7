"""The first layers for another number of input channels."""

import torch
from torch import Tensor

_STAGE = "tokens_to_token.attention1."
_NORM = (f"{_STAGE}norm1.weight", f"{_STAGE}norm1.bias")
_LINEAR = (f"{_STAGE}kqv.weight", f"{_STAGE}attn.qkv.weight")


def sees_channels(name: str, tensor: Tensor, target: Tensor, window: int) -> bool:
    """Whether `name` reads windows of the image itself, so that only its last side grows with the input channels."""
    in_first_layers = name in (*_NORM, *_LINEAR)
    return in_first_layers and tensor.shape[:-1] == target.shape[:-1] and tensor.shape[-1] % window == 0


def adapt_channels(tensor: Tensor, in_chans: int, window: int) -> Tensor:
    """Spread or fold the last side, which is channels times window, channels first, to `in_chans` channels.

    Channel c of the result is channel c modulo the old count of the old ones; a single channel is their mean. A linear
    layer's columns are scaled by old / new, so that its outputs keep their size: a grey picture gives the outputs
    that it gave when repeated in every channel, as far as the norm treated the channels alike.

    Args:
        tensor: (..., old * window), a norm's vector or a linear layer's matrix.
        window: pixels of the first soft split's window.

    Returns:
        (..., in_chans * window).
    """
    old = tensor.reshape(*tensor.shape[:-1], -1, window)  # (..., old, window)
    count = old.shape[-2]
    repeated = old.index_select(-2, torch.arange(in_chans) % count)  # (..., in_chans, window)
    spread = old.mean(dim=-2, keepdim=True) if in_chans == 1 else repeated
    scale = count / in_chans if tensor.ndim > 1 else 1.0
    return (spread * scale).flatten(-2)
