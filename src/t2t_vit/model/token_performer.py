"""The T2T module's attention in its linear form."""

from torch import Tensor, nn

from t2t_vit.model.drop import Dropout
from t2t_vit.model.linear import Linear
from t2t_vit.model.mlp import gelu
from t2t_vit.model.windows import Windows, norm_linear
from t2t_vit.ops.attention_weights import performer_weights
from t2t_vit.ops.performer import draw_features, performer_attention


class TokenPerformer(nn.Module):
    """One head of performer attention over long tokens, narrowed to `token_dim`, and an MLP.

    The residual runs around the values, not around the input, which is wider. Half of `token_dim` random features.

    Args:
        dim: length of a token as the soft split gives it.
        token_dim: length of a token afterwards.
        drop: dropout after the projection and at the MLP's end; the authors fix it at 0.1 out of reach of every option.
        kernels: how the attention is computed; see `performer_attention`.

    Source: arXiv 2101.11986, section 3.1; the authors' `Token_performer`.
    """

    w: Tensor

    def __init__(self, dim: int, token_dim: int, drop: float, approximate_gelu: bool, kernels: str = "auto") -> None:
        super().__init__()
        self.kernels = kernels
        self.norm1 = nn.LayerNorm(dim)
        self.kqv = Linear(dim, 3 * token_dim)  # in this order: keys, queries, values
        self.register_buffer("w", draw_features(token_dim // 2, token_dim))
        self.proj = Linear(token_dim, token_dim)
        self.drop = Dropout(drop)
        self.norm2 = nn.LayerNorm(token_dim)
        self.mlp = nn.Sequential(
            Linear(token_dim, token_dim),
            gelu(approximate_gelu),
            Linear(token_dim, token_dim),
            Dropout(drop),
        )

    def forward(self, tokens: Tensor | Windows) -> Tensor:  # (B, N, dim)
        k, q, v = norm_linear(tokens, self.norm1, self.kqv).chunk(3, dim=-1)  # (B, N, token_dim) each
        tokens = v + self.drop(self.proj(performer_attention(q, k, v, self.w, self.kernels)))  # (B, N, token_dim)
        return tokens + self.mlp(self.norm2(tokens))

    def weights(self, tokens: Tensor | Windows) -> Tensor:
        """What each token looks at: (B, 1, N, N); N is 3136 in the first stage of a 224-pixel image."""
        k, q, _ = norm_linear(tokens, self.norm1, self.kqv).chunk(3, dim=-1)  # (B, N, token_dim) each
        return performer_weights(q, k, self.w).unsqueeze(1)
