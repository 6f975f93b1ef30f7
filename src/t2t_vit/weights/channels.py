"""The first layers for another number of input channels."""

import torch
from torch import Tensor

from t2t_vit.weights.blueprint import Channels


def adapt_channels(tensor: Tensor, in_chans: int, layer: Channels) -> Tensor:
    """Spread or fold the axis that is channels times window, channels first, to `in_chans` channels.

    Channel c of the result is channel c modulo the old count of the old ones; a single channel is their mean. The
    columns of a linear layer or convolution are scaled by old / new, so that its outputs keep their size: a grey
    picture gives the outputs that it gave when repeated in every channel, as far as the norm treated the channels
    alike.

    Args:
        tensor: a norm's vector, a linear layer's matrix or a convolution's kernel with old * window entries on the
            axis.

    Returns:
        The same with in_chans * window entries.
    """
    last = tensor.movedim(layer.axis, -1)
    old = last.reshape(*last.shape[:-1], -1, layer.window)  # (..., old, window)
    count = old.shape[-2]
    repeated = old.index_select(-2, torch.arange(in_chans) % count)  # (..., in_chans, window)
    spread = old.mean(dim=-2, keepdim=True) if in_chans == 1 else repeated
    scale = count / in_chans if tensor.ndim > 1 else 1.0
    return (spread * scale).flatten(-2).movedim(-1, layer.axis)
