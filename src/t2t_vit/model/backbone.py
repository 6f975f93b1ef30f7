"""The backbone: attention, MLP and block as one reads them, then the paper's other blocks, then a row to its blocks.

What is written here is what is computed, on every device and in every mode.
"""

import torch
import torch.fx
from torch import Tensor, nn

from t2t_vit.model.drop import Dropout, DropPath
from t2t_vit.ops.attention import self_attention, softmax_weights, split_heads
from t2t_vit.variants import Variant

torch.fx.wrap("self_attention")  # it looks at devices and dtypes, so a tracer keeps it whole


class Attention(nn.Module):
    """softmax(q k^T / sqrt(dim / heads)) v for each head, joined by a linear layer. No bias on q, k and v."""

    def __init__(self, dim: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self._add_projections(dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.proj_drop(self.proj(self.mix(tokens)))  # (B, N, dim)

    def mix(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) to the heads' answers, side by side: (B, N, dim)."""
        return self_attention(self.queries_keys_values(tokens), self.heads, self.scale)

    def queries_keys_values(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) to three of the same shape, side by side: (B, N, 3 dim)."""
        return self.qkv(tokens)

    def weights(self, tokens: Tensor) -> Tensor:
        """What each token looks at: (B, heads, N, N), rows sum to 1. For figures; `forward` never stores it."""
        q, k, _ = (split_heads(part, self.heads) for part in self.queries_keys_values(tokens).chunk(3, dim=-1))
        return softmax_weights(q, k, self.scale)

    def _add_projections(self, dim: int) -> None:
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)


def gelu(approximate: bool) -> nn.GELU:
    """The exact GELU (erf), or its tanh approximation."""
    return nn.GELU(approximate="tanh" if approximate else "none")


class Mlp(nn.Module):
    """drop2(fc2(drop1(gelu(fc1(x))))) on (B, N, dim)."""

    def __init__(self, dim: int, hidden: int, drop: float, approximate_gelu: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = gelu(approximate_gelu)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop1, self.drop2 = Dropout(drop), Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        hidden = self.drop1(self.act(self.fc1(tokens)))  # (B, N, hidden)
        return self.drop2(self.fc2(hidden))  # (B, N, dim)


class Block(nn.Module):
    """x + path(attn(norm1(x))), then x + path(mlp(norm2(x))), whatever the two are."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        tokens = tokens + self.drop_path1(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path2(self.mlp(self.norm2(tokens)))


class SqueezeExcitation(nn.Module):
    """x * sigmoid(W2 relu(W1 mean of x over the tokens)) on (B, N, dim), the class token included in the mean.

    Source: arXiv 1709.01507; the authors' `SELayer`, with its reduction of 16 and without biases.
    """

    def __init__(self, dim: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(dim, dim // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(dim // reduction, dim, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return tokens * self.fc(tokens.mean(dim=1, keepdim=True))


class SEAttention(Attention):
    """Self-attention with squeeze-and-excitation after its last projection: t2t_vit_14_se."""

    def __init__(self, dim: int, heads: int, drop: float) -> None:
        super().__init__(dim, heads, drop)
        self.se_layer = SqueezeExcitation(dim)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.proj_drop(self.se_layer(self.proj(self.mix(tokens))))


class CheapOperation(nn.Module):
    """x * w, a weight a channel, on (B, N, dim): the authors' depthwise convolution of length 1, and its shape of w.

    Source: arXiv 1911.11907; the authors' `Attention_ghost` and `Mlp_ghost`.
    """

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
        self.q, self.k, self.v = (nn.Linear(dim, half, bias=False) for _ in range(3))
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
        self.fc1 = nn.Linear(dim, dim)
        self.act = gelu(approximate_gelu)
        self.fc2 = nn.Linear(3 * dim, dim)
        self.drop1, self.drop2 = Dropout(drop), Dropout(drop)
        self.cheap_operation2 = CheapOperation(dim)
        self.cheap_operation3 = CheapOperation(dim)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        first = self.act(self.fc1(tokens))  # (B, N, dim)
        second, third = self.act(self.cheap_operation2(first)), self.act(self.cheap_operation3(first))
        hidden = self.drop1(torch.cat([first, second, third], dim=-1))  # (B, N, 3 dim)
        return self.drop2(self.fc2(hidden))  # (B, N, dim)


class DenseBlock(Block):
    """[x, W block(x)]: a block's answer, narrowed to `growth` channels, is appended to the tokens.

    Source: arXiv 1608.06993; the authors' `T2T_ViT_Dense`.
    """

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float, growth: int) -> None:
        super().__init__(dim, attn, mlp, drop_path)
        self.dense_linear = nn.Linear(dim, growth)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return torch.cat([tokens, self.dense_linear(super().forward(tokens))], dim=-1)  # (B, N, dim + growth)


class Transition(nn.Module):
    """gelu(W x): between two stages of the dense network, tokens of half the length."""

    def __init__(self, dim: int, approximate_gelu: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim // 2)
        self.act = gelu(approximate_gelu)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.act(self.linear(tokens))  # (B, N, dim / 2)


ATTENTIONS: dict[str, type[Attention]] = {
    "plain": Attention,
    "se": SEAttention,
    "ghost": GhostAttention,
    "dense": Attention,
}
# The dense network's drop path rises by stage, along a line that the authors draw for 12 blocks though it has 19: its
# last block is dropped with 3/11 of the rate that was asked for.
DENSE_RAMP = 12


def build_blocks(variant: Variant, drop: float, drop_path: float, approximate_gelu: bool) -> nn.ModuleList:
    """The blocks in order, the rate of drop path rising linearly from 0 to `drop_path` at the last one."""
    if variant.block == "dense":
        return _dense_blocks(variant, drop, drop_path, approximate_gelu)
    rates = (drop_path * i / max(1, variant.depth - 1) for i in range(variant.depth))
    return nn.ModuleList(Block(variant.dim, *_parts(variant, variant.dim, drop, approximate_gelu), r) for r in rates)


def _dense_blocks(variant: Variant, drop: float, drop_path: float, approximate_gelu: bool) -> nn.ModuleList:
    blocks, dim = nn.ModuleList(), variant.dim
    for stage, layers in enumerate(variant.stages):
        if stage > 0:
            blocks.append(Transition(dim, approximate_gelu))
            dim //= 2
        for _ in range(layers):
            attn, mlp = _parts(variant, dim, drop, approximate_gelu)
            blocks.append(DenseBlock(dim, attn, mlp, drop_path * stage / (DENSE_RAMP - 1), variant.growth))
            dim += variant.growth
    return blocks


def _parts(variant: Variant, dim: int, drop: float, approximate_gelu: bool) -> tuple[nn.Module, nn.Module]:
    attn = ATTENTIONS[variant.block](dim, variant.heads, drop)
    if variant.block == "ghost":
        return attn, GhostMlp(dim, drop, approximate_gelu)
    return attn, Mlp(dim, int(dim * variant.mlp_ratio), drop, approximate_gelu)
