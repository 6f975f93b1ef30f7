"""The T2T module's attention in its exact form."""

from torch import Tensor, nn

from t2t_vit.model.linear import Linear
from t2t_vit.model.mlp import Mlp
from t2t_vit.model.windows import Windows, norm_linear
from t2t_vit.ops.attention import attention
from t2t_vit.ops.attention_weights import softmax_weights


class NarrowingAttention(nn.Module):
    """One head of softmax attention from `dim` to `token_dim`, scaled by dim^-0.5, with the values as residual.

    The norm in front of it is handed in, since it is computed together with queries, keys and values.
    """

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        # The input's length, not the head's: released weights were trained so.
        self.scale = dim**-0.5
        self.qkv = Linear(dim, 3 * token_dim, bias=False)
        self.proj = Linear(token_dim, token_dim)

    def forward(self, tokens: Tensor | Windows, norm: nn.LayerNorm) -> Tensor:  # (B, N, dim)
        q, k, v = norm_linear(tokens, norm, self.qkv).unsqueeze(1).chunk(3, dim=-1)  # (B, 1, N, token_dim) each
        mixed = attention(q, k, v, self.scale)  # (B, 1, N, token_dim)
        return (v + self.proj(mixed)).squeeze(1)  # (B, N, token_dim)

    def weights(self, tokens: Tensor | Windows, norm: nn.LayerNorm) -> Tensor:
        """What each token looks at: (B, 1, N, N), rows sum to 1."""
        q, k, _ = norm_linear(tokens, norm, self.qkv).unsqueeze(1).chunk(3, dim=-1)  # (B, 1, N, token_dim) each
        return softmax_weights(q, k, self.scale)


class TokenTransformer(nn.Module):
    """Exact attention over long tokens, narrowed to `token_dim`, and an MLP of ratio 1; neither drops anything.

    Source: arXiv 2101.11986, section 3.1; the authors' `Token_transformer`.
    """

    def __init__(self, dim: int, token_dim: int, approximate_gelu: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = NarrowingAttention(dim, token_dim)
        self.norm2 = nn.LayerNorm(token_dim)
        self.mlp = Mlp(token_dim, token_dim, 0.0, approximate_gelu)

    def forward(self, tokens: Tensor | Windows) -> Tensor:  # (B, N, dim)
        tokens = self.attn(tokens, self.norm1)  # (B, N, token_dim)
        return tokens + self.mlp(self.norm2(tokens))

    def weights(self, tokens: Tensor | Windows) -> Tensor:
        """What each token looks at: (B, 1, N, N); N is 3136 in the first stage of a 224-pixel image."""
        return self.attn.weights(tokens, self.norm1)
