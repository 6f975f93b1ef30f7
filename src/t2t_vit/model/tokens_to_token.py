"""The Tokens-to-Token module: an image becomes few tokens, each aware of its neighbours."""

from torch import Tensor, nn

from t2t_vit.model.drop import DropBlock
from t2t_vit.model.token_performer import TokenPerformer
from t2t_vit.model.token_transformer import TokenTransformer
from t2t_vit.ops.soft_split import soft_split
from t2t_vit.variants import SoftSplit, Variant

Grid = tuple[int, int]
# What is made on the way to the tokens: a fine map, a coarse map, and the tokens themselves.
Stages = tuple[Tensor, Tensor, Tensor]


class SoftSplitLayer(nn.Module):
    """A feature map (B, C, H, W) to its overlapping windows as tokens (B, N, C k k) and their grid (height, width)."""

    def __init__(self, split: SoftSplit) -> None:
        super().__init__()
        self.split = split

    def forward(self, features: Tensor) -> tuple[Tensor, Grid]:
        tokens = soft_split(features, self.split.kernel, self.split.stride, self.split.padding)
        return tokens, self.split.grid(features.shape[2], features.shape[3])


def restructure(tokens: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, N, C) back in their places as a feature map (B, C, *grid); the paper's "re-structurization"."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


class TokensToToken(nn.Module):
    """Three soft splits with attention between them; shapes below are of a 224-pixel image.

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
    ) -> None:
        super().__init__()

        def attention(dim: int) -> nn.Module:
            if variant.tokens == "performer":
                return TokenPerformer(dim, variant.token_dim, performer_drop, approximate_gelu)
            return TokenTransformer(dim, variant.token_dim, approximate_gelu)

        first, second, third = variant.splits
        self.split0 = SoftSplitLayer(first)
        self.attention1 = attention(in_chans * first.kernel**2)
        self.split1 = SoftSplitLayer(second)
        self.attention2 = attention(variant.token_dim * second.kernel**2)
        self.split2 = SoftSplitLayer(third)
        self.project = nn.Linear(variant.token_dim * third.kernel**2, variant.dim)
        self.drop_block1, self.drop_block2 = DropBlock(drop_block), DropBlock(drop_block)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 224, 224)
        _, _, tokens = self.stages(images)
        return tokens  # (B, 196, dim)

    def stages(self, images: Tensor) -> Stages:
        """The maps after the first and the second attention, and the tokens."""
        tokens, grid = self.split0(images)  # (B, 3136, 147)  grid 56 x 56
        tokens = self.attention1(tokens)  # (B, 3136, 64)
        fine = self.drop_block1(restructure(tokens, grid))  # (B, 64, 56, 56)
        tokens, grid = self.split1(fine)  # (B, 784, 576)  grid 28 x 28
        tokens = self.attention2(tokens)  # (B, 784, 64)
        coarse = self.drop_block2(restructure(tokens, grid))  # (B, 64, 28, 28)
        tokens, grid = self.split2(coarse)  # (B, 196, 576)  grid 14 x 14
        return fine, coarse, self.project(tokens)  # (B, 196, dim)
