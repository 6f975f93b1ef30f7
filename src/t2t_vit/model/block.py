"""The backbone's block: multi-head self-attention and an MLP, each behind a LayerNorm and around a residual."""

from torch import Tensor, nn

from t2t_vit.model.drop import DropPath
from t2t_vit.model.mlp import Mlp
from t2t_vit.ops.attention import attention


class Attention(nn.Module):
    """softmax(q k^T / sqrt(dim / heads)) v for each head, joined by a linear layer. No bias on q, k and v."""

    def __init__(self, dim: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        batch, length, dim = tokens.shape
        q, k, v = (
            part.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)  # (B, h, N, d)
            for part in self.qkv(tokens).chunk(3, dim=-1)
        )
        mixed = attention(q, k, v, self.scale)  # (B, h, N, d)
        joined = mixed.transpose(1, 2).reshape(batch, length, dim)  # (B, N, dim)
        return self.proj_drop(self.proj(joined))


class Block(nn.Module):
    """x + path(attn(norm1(x))), then x + path(mlp(norm2(x)))."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float, drop: float, drop_path: float, approximate_gelu: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, drop)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop, approximate_gelu)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))
