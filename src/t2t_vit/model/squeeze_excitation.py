"""Attention whose output channels are weighed by what all tokens hold: the block of t2t_vit_14_se."""

from torch import Tensor, nn

from t2t_vit.model.attention import Attention


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
    """Self-attention with squeeze-and-excitation after its last projection."""

    def __init__(self, dim: int, heads: int, drop: float) -> None:
        super().__init__(dim, heads, drop)
        self.se_layer = SqueezeExcitation(dim)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.proj_drop(self.se_layer(self.proj(self.mix(tokens))))
