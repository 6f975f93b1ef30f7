"""Layers that compute a part of their channels and scale copies of it for the rest: the block of t2t_vit_16_ghost.

Source: arXiv 1911.11907; the authors' `Attention_ghost` and `Mlp_ghost`.
"""

import torch
from torch import Tensor, nn

from t2t_vit.model.attention import Attention
from t2t_vit.model.drop import Dropout
from t2t_vit.model.linear import Linear
from t2t_vit.model.mlp import gelu


class CheapOperation(nn.Module):
    """x * w, a weight a channel, on (B, N, dim): the authors' depthwise convolution of length 1, and its shape of w."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Drawn as that convolution is: uniform within 1 / sqrt(fan-in), and the fan-in is 1.
        self.weight = nn.Parameter(torch.empty(dim, 1, 1).uniform_(-1, 1))

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return tokens * self.weight.flatten()


class GhostAttention(Attention):
    """Self-attention that projects to half of q, k and v; the other half is the first one, scaled by channel."""

    def _add_projections(self, dim: int) -> None:
        half = dim // 2
        self.q, self.k, self.v = (Linear(dim, half, bias=False) for _ in range(3))
        self.cheap_operation_q, self.cheap_operation_k, self.cheap_operation_v = (
            CheapOperation(half) for _ in range(3)
        )

    def queries_keys_values(self, tokens: Tensor) -> Tensor:
        q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)  # (B, N, dim / 2) each
        halves = [q, self.cheap_operation_q(q), k, self.cheap_operation_k(k), v, self.cheap_operation_v(v)]
        return torch.cat(halves, dim=-1)  # (B, N, 3 dim)


class GhostMlp(nn.Module):
    """An MLP of ratio 3 that computes a third of its hidden channels and scales copies of it for the other two."""

    def __init__(self, dim: int, drop: float, approximate_gelu: bool) -> None:
        super().__init__()
        self.fc1 = Linear(dim, dim)
        self.act = gelu(approximate_gelu)
        self.fc2 = Linear(3 * dim, dim)
        self.drop1, self.drop2 = Dropout(drop), Dropout(drop)
        self.cheap_operation2 = CheapOperation(dim)
        self.cheap_operation3 = CheapOperation(dim)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        first = self.act(self.fc1(tokens))  # (B, N, dim)
        second, third = self.act(self.cheap_operation2(first)), self.act(self.cheap_operation3(first))
        hidden = self.drop1(torch.cat([first, second, third], dim=-1))  # (B, N, 3 dim)
        return self.drop2(self.fc2(hidden))  # (B, N, dim)
