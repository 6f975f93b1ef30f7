"""A network made ready for one CPU: the same numbers to rounding, in half the time.

What is different from the network that it is made of:

- weights are laid out once, GELU and residual are part of the product before them (`ops.packed_linear`);
- the T2T module's windows are taken channels last, in one copy of long runs, and norms and weights permuted to match;
- the performer works in place, and the T2T module image by image, so that its long tokens stay in the cache.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2t_vit.model.attention import Attention
from t2t_vit.model.block import Block
from t2t_vit.model.mlp import Mlp
from t2t_vit.model.t2t_vit import T2TViT
from t2t_vit.model.token_performer import TokenPerformer
from t2t_vit.model.tokens_to_token import TokensToToken
from t2t_vit.ops.packed_linear import Activation, can_pack, pack_weight, packed_linear, packed_linear_add
from t2t_vit.ops.performer import performer_attention_in_place
from t2t_vit.variants import SoftSplit

__all__ = ["can_pack", "pack"]

ROWS = 8 * 197  # what the layout of the weights is chosen for; it is right for any other number, too
Grid = tuple[int, int]


def pack(model: T2TViT, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of the network for inference on the CPU, in eval mode, with weights of `dtype`: float32 or bfloat16.

    It takes float images (B, in_chans, height, width) of any float dtype and gives logits (B, num_classes) in `dtype`.
    """
    packed = copy.deepcopy(model).cpu().to(dtype).eval().requires_grad_(False)
    tokens = packed.tokens_to_token
    if isinstance(tokens, TokensToToken):
        _take_windows_channels_last(tokens)
    _swap(packed)
    packed.tokens_to_token = ImageByImage(packed.tokens_to_token)  # type: ignore[assignment]
    packed.register_forward_pre_hook(lambda _, images: (images[0].to(dtype),))
    return packed


class PackedLinear(nn.Module):
    """A linear layer with its weight packed, and an activation behind it."""

    def __init__(self, linear: nn.Linear, activation: Activation = "none") -> None:
        super().__init__()
        self.weight = pack_weight(linear.weight.detach(), ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation: Activation = activation

    def forward(self, inputs: Tensor) -> Tensor:  # (..., in)
        return packed_linear(inputs, self.weight, self.bias, self.activation)  # (..., out)

    def add(self, inputs: Tensor, residual: Tensor) -> Tensor:
        """The layer's answer on top of `residual` (..., out)."""
        return packed_linear_add(inputs, self.weight, self.bias, residual)


class PackedMlp(nn.Module):
    """fc2(gelu(fc1(x))) + residual."""

    def __init__(self, fc1: nn.Linear, act: nn.GELU, fc2: nn.Linear) -> None:
        super().__init__()
        self.fc1 = PackedLinear(fc1, "gelu_tanh" if act.approximate == "tanh" else "gelu")
        self.fc2 = PackedLinear(fc2)

    def add(self, tokens: Tensor, residual: Tensor) -> Tensor:
        return self.fc2.add(self.fc1(tokens), residual)


class PackedBlock(nn.Module):
    """A plain block: x + attn(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, block: Block, attn: Attention, mlp: Mlp) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn = block.norm1, block.norm2, attn
        self.proj = PackedLinear(attn.proj)
        self.attn.qkv = PackedLinear(attn.qkv)  # type: ignore[assignment]
        self.mlp = PackedMlp(mlp.fc1, mlp.act, mlp.fc2)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        tokens = self.proj.add(self.attn.mix(self.norm1(tokens)), tokens)
        return self.mlp.add(self.norm2(tokens), tokens)


class PackedPerformer(nn.Module):
    """`TokenPerformer` in eval mode."""

    w: Tensor

    def __init__(self, performer: TokenPerformer) -> None:
        super().__init__()
        self.norm1, self.norm2 = performer.norm1, performer.norm2
        self.kqv, self.proj = PackedLinear(performer.kqv), PackedLinear(performer.proj)
        self.register_buffer("w", performer.w)
        fc1, act, fc2, _ = performer.mlp
        self.mlp = PackedMlp(fc1, act, fc2)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        k, q, v = self.kqv(self.norm1(tokens)).chunk(3, dim=-1)  # (B, N, token_dim) each
        tokens = self.proj.add(performer_attention_in_place(q, k, v, self.w), v.contiguous())
        return self.mlp.add(self.norm2(tokens), tokens)


class ChannelsLastSplit(nn.Module):
    """`SoftSplitLayer` with the channels fastest inside a token: (row, column, c)."""

    def __init__(self, split: SoftSplit) -> None:
        super().__init__()
        self.split = split

    def forward(self, features: Tensor) -> tuple[Tensor, Grid]:  # (B, C, H, W)
        kernel, stride, padding = self.split.kernel, self.split.stride, self.split.padding
        padded = F.pad(features.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
        windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (B, rows, columns, C, k, k)
        tokens = windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2)  # (B, N, k k C)
        return tokens, self.split.grid(features.shape[2], features.shape[3])


class ImageByImage(nn.Module):
    """A module on one image at a time, its answers joined."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.module(image) for image in torch.split(images, 1)])


def _take_windows_channels_last(module: TokensToToken) -> None:
    """Other splits, and what reads their tokens permuted to match."""
    for name, reader in (("split0", module.attention1), ("split1", module.attention2), ("split2", module.project)):
        split = getattr(module, name).split
        setattr(module, name, ChannelsLastSplit(split))
        for tensor in _read_from_windows(reader):
            tensor.data = _channels_last(tensor, split.kernel)


def _read_from_windows(reader: nn.Module) -> list[Tensor]:
    if isinstance(reader, nn.Linear):
        return [reader.weight]
    first = reader.kqv if isinstance(reader, TokenPerformer) else reader.attn.qkv  # type: ignore[union-attr]
    return [reader.norm1.weight, reader.norm1.bias, first.weight]  # type: ignore[union-attr, list-item]


def _channels_last(tensor: Tensor, kernel: int) -> Tensor:
    """(..., C k k) with the last dimension in the order (c, row, column) -> (row, column, c)."""
    windows = tensor.view(*tensor.shape[:-1], -1, kernel, kernel)
    return windows.movedim(-3, -1).flatten(-3).contiguous()


def _swap(module: nn.Module) -> None:
    """Put packed layers in place of what they know; everything else stays."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        elif type(child) is TokenPerformer:
            setattr(module, name, PackedPerformer(child))
        elif type(child) is Block and type(child.attn) is Attention and type(child.mlp) is Mlp:
            setattr(module, name, PackedBlock(child, child.attn, child.mlp))
        else:
            _swap(child)
