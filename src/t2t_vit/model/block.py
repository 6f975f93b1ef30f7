"""The backbone's block: self-attention and an MLP, each behind a LayerNorm and around a residual."""

from torch import Tensor, nn

from t2t_vit.model.drop import DropPath


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
