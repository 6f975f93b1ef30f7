"""Blocks that append to their tokens instead of replacing them: the backbone of t2t_vit_dense.

Source: arXiv 1608.06993; the authors' `T2T_ViT_Dense`.
"""

import torch
from torch import Tensor, nn

from t2t_vit.model.block import Block
from t2t_vit.model.linear import Linear
from t2t_vit.model.mlp import gelu


class DenseBlock(Block):
    """[x, W block(x)]: a block's answer, narrowed to `growth` channels, is appended to the tokens."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float, growth: int) -> None:
        super().__init__(dim, attn, mlp, drop_path)
        self.dense_linear = Linear(dim, growth)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return torch.cat([tokens, self.dense_linear(super().forward(tokens))], dim=-1)  # (B, N, dim + growth)


class Transition(nn.Module):
    """gelu(W x): between two stages, tokens of half the length."""

    def __init__(self, dim: int, approximate_gelu: bool) -> None:
        super().__init__()
        self.linear = Linear(dim, dim // 2)
        self.act = gelu(approximate_gelu)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.act(self.linear(tokens))  # (B, N, dim / 2)
