"""The backbone's multi-head self-attention."""

from torch import Tensor, nn

from t2t_vit.model.drop import Dropout
from t2t_vit.ops.attention import attention
from t2t_vit.ops.attention_weights import softmax_weights


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
        return self.proj_drop(self.proj(self.mix(tokens)))

    def mix(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) to the heads' answers, side by side: (B, N, dim)."""
        q, k, v = (self._split(part) for part in self.queries_keys_values(tokens))  # (B, h, N, d) each
        mixed = attention(q, k, v, self.scale)  # (B, h, N, d)
        return mixed.transpose(1, 2).reshape(tokens.shape)  # (B, N, dim)

    def queries_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, dim) to three of the same shape."""
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        return q, k, v

    def weights(self, tokens: Tensor) -> Tensor:
        """What each token looks at: (B, heads, N, N), rows sum to 1. For pictures; `forward` never stores it."""
        q, k, _ = self.queries_keys_values(tokens)
        return softmax_weights(self._split(q), self._split(k), self.scale)

    def _add_projections(self, dim: int) -> None:
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)

    def _split(self, part: Tensor) -> Tensor:
        batch, length, dim = part.shape
        return part.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)  # (B, h, N, d)
