"""The backbone's multi-head self-attention."""

from torch import Tensor

from t2t_vit.model.drop import Dropout
from t2t_vit.model.linear import Choosing, Linear
from t2t_vit.ops.attention import self_attention, split_heads
from t2t_vit.ops.attention_weights import softmax_weights


class Attention(Choosing):
    """softmax(q k^T / sqrt(dim / heads)) v for each head, joined by a linear layer. No bias on q, k and v."""

    def __init__(self, dim: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self._add_projections(dim)
        self.proj = Linear(dim, dim)
        self.proj_drop = Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.proj_drop(self.proj(self.mix(tokens)))

    def mix(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) to the heads' answers, side by side: (B, N, dim)."""
        return self.mix_of(self.queries_keys_values(tokens))

    def mix_of(self, qkv: Tensor) -> Tensor:
        """The heads' answers (B, N, dim) from queries, keys and values, side by side: (B, N, 3 dim)."""
        return self_attention(qkv, self.heads, self.scale, self.kernels)

    def queries_keys_values(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) to three of the same shape, side by side: (B, N, 3 dim)."""
        return self.qkv(tokens)

    def weights(self, tokens: Tensor) -> Tensor:
        """What each token looks at: (B, heads, N, N), rows sum to 1. For pictures; `forward` never stores it."""
        q, k, _ = (split_heads(part, self.heads) for part in self.queries_keys_values(tokens).chunk(3, dim=-1))
        return softmax_weights(q, k, self.scale)

    def _add_projections(self, dim: int) -> None:
        self.qkv = Linear(dim, 3 * dim, bias=False)
