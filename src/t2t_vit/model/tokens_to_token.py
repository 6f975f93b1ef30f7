"""The Tokens-to-Token module: an image becomes few tokens, each aware of its neighbours."""

from torch import Tensor, nn

from t2t_vit.model.drop import DropBlock
from t2t_vit.model.linear import Linear
from t2t_vit.model.token_performer import TokenPerformer
from t2t_vit.model.token_transformer import TokenTransformer
from t2t_vit.model.windows import Grid, Windows
from t2t_vit.ops.kernels import check_name
from t2t_vit.variants import SoftSplit, Variant

# What is made on the way to the tokens: a fine map, a coarse map, and the tokens themselves.
Stages = tuple[Tensor, Tensor, Tensor]


class SoftSplitLayer(nn.Module):
    """A feature map (B, C, H, W) to its overlapping windows, which are tokens (B, N, C k k) once they are made."""

    def __init__(self, split: SoftSplit, kernels: str) -> None:
        super().__init__()
        self.split, self.kernels = split, kernels

    def forward(self, features: Tensor) -> Windows:
        return Windows(features, self.split, self.kernels)


def restructure(tokens: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, N, C) back in their places as a feature map (B, C, *grid); the paper's "re-structurization"."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


class TokensToToken(nn.Module):
    """Three soft splits with attention between them; shapes below are of a 224-pixel image.

    `kernels` is how windows become keys, queries and values; see `split_norm_linear`.

    Source: arXiv 2101.11986, section 3.1 and figure 3.
    """

    def __init__(
        self,
        variant: Variant,
        in_chans: int,
        *,
        drop_block: float,
        performer_drop: float,
        approximate_gelu: bool,
        kernels: str = "auto",
    ) -> None:
        super().__init__()
        check_name(kernels)

        def attention(dim: int) -> nn.Module:
            if variant.tokens == "performer":
                return TokenPerformer(dim, variant.token_dim, performer_drop, approximate_gelu, kernels)
            return TokenTransformer(dim, variant.token_dim, approximate_gelu)

        first, second, third = variant.splits
        self.split0 = SoftSplitLayer(first, kernels)
        self.attention1 = attention(in_chans * first.kernel**2)
        self.split1 = SoftSplitLayer(second, kernels)
        self.attention2 = attention(variant.token_dim * second.kernel**2)
        self.split2 = SoftSplitLayer(third, kernels)
        self.project = Linear(variant.token_dim * third.kernel**2, variant.dim)
        self.drop_block1, self.drop_block2 = DropBlock(drop_block), DropBlock(drop_block)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 224, 224)
        _, _, tokens = self.stages(images)
        return tokens  # (B, 196, dim)

    def stages(self, images: Tensor) -> Stages:
        """The maps after the first and the second attention, and the tokens."""
        windows = self.split0(images)  # 3136 windows of 147 numbers, not made yet; grid 56 x 56
        tokens = self.attention1(windows)  # (B, 3136, 64)
        fine = self.drop_block1(restructure(tokens, windows.grid))  # (B, 64, 56, 56)
        windows = self.split1(fine)  # 784 windows of 576 numbers; grid 28 x 28
        tokens = self.attention2(windows)  # (B, 784, 64)
        coarse = self.drop_block2(restructure(tokens, windows.grid))  # (B, 64, 28, 28)
        windows = self.split2(coarse)  # 196 windows of 576 numbers; grid 14 x 14
        return fine, coarse, windows.linear(self.project)  # (B, 196, dim)
