"""Tokens from three convolutions: what the paper compares the Tokens-to-Token module with."""

from torch import Tensor, nn

from t2t_vit.model.drop import DropBlock
from t2t_vit.model.tokens_to_token import Stages
from t2t_vit.variants import SoftSplit, Variant


class ConvolutionTokens(nn.Module):
    """Three convolutions of the soft splits' kernels, strides and paddings, nothing between them; hence linear.

    Shapes below are of a 224-pixel image. The authors build these layers, under these names, but run no network of
    them ("you need change forward").

    Source: arXiv 2101.11986, the ablation "T2T-ViT_c-14"; the authors' `tokens_type='convolution'`.
    """

    def __init__(self, variant: Variant, in_chans: int, *, drop_block: float) -> None:
        super().__init__()

        def convolution(chans: int, dim: int, split: SoftSplit) -> nn.Conv2d:
            return nn.Conv2d(chans, dim, split.kernel, split.stride, split.padding)

        first, second, third = variant.splits
        self.soft_split0 = convolution(in_chans, variant.token_dim, first)
        self.soft_split1 = convolution(variant.token_dim, variant.token_dim, second)
        self.project = convolution(variant.token_dim, variant.dim, third)
        self.drop_block1, self.drop_block2 = DropBlock(drop_block), DropBlock(drop_block)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 224, 224)
        _, _, tokens = self.stages(images)
        return tokens  # (B, 196, dim)

    def stages(self, images: Tensor) -> Stages:
        """The maps after the first and the second convolution, and the tokens."""
        fine = self.drop_block1(self.soft_split0(images))  # (B, 64, 56, 56)
        coarse = self.drop_block2(self.soft_split1(fine))  # (B, 64, 28, 28)
        return fine, coarse, self.project(coarse).flatten(2).transpose(1, 2)  # (B, 196, dim)
