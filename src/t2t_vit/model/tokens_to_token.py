"""The Tokens-to-Token module: an image becomes few tokens, each aware of its neighbours.

What is written here is what is computed, on every device and in every mode.
"""

import torch.fx
from torch import Tensor, nn

from t2t_vit.model.backbone import Mlp, gelu
from t2t_vit.model.drop import DropBlock, Dropout
from t2t_vit.ops.attention import attention, softmax_weights
from t2t_vit.ops.performer import draw_features, performer_attention, performer_weights
from t2t_vit.ops.soft_split import soft_split
from t2t_vit.variants import SoftSplit, Variant

# These look at devices and dtypes, so a tracer keeps them whole.
torch.fx.wrap("attention")
torch.fx.wrap("performer_attention")

# What is made on the way to the tokens: a fine map, a coarse map, and the tokens themselves.
Stages = tuple[Tensor, Tensor, Tensor]


class SoftSplitLayer(nn.Module):
    """A feature map (B, C, H, W) to its overlapping windows as tokens (B, N, C k k)."""

    def __init__(self, split: SoftSplit) -> None:
        super().__init__()
        self.split = split

    def grid(self, features: Tensor) -> tuple[int, int]:
        """Rows and columns of the windows of a map (B, C, H, W)."""
        return self.split.grid(features.shape[2], features.shape[3])

    def forward(self, features: Tensor) -> Tensor:
        windows = soft_split(features, self.split.kernel, self.split.stride, self.split.padding)
        return windows.contiguous()  # made once: LayerNorm and its gradient would each make a copy of a view


class TokenPerformer(nn.Module):
    """One head of performer attention over long tokens, narrowed to `token_dim`, and an MLP.

    The residual runs around the values, not around the input, which is wider. Half of `token_dim` random features.

    Args:
        dim: length of a token as the soft split gives it.
        token_dim: length of a token afterwards.
        drop: dropout after the projection and at the MLP's end; the authors fix it at 0.1 out of reach of every option.

    Source: arXiv 2101.11986, section 3.1; the authors' `Token_performer`.
    """

    w: Tensor

    def __init__(self, dim: int, token_dim: int, drop: float, approximate_gelu: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.kqv = nn.Linear(dim, 3 * token_dim)  # in this order: keys, queries, values
        self.register_buffer("w", draw_features(token_dim // 2, token_dim))
        self.proj = nn.Linear(token_dim, token_dim)
        self.drop = Dropout(drop)
        self.norm2 = nn.LayerNorm(token_dim)
        self.mlp = nn.Sequential(
            nn.Linear(token_dim, token_dim),
            gelu(approximate_gelu),
            nn.Linear(token_dim, token_dim),
            Dropout(drop),
        )

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        k, q, v = self.kqv(self.norm1(tokens)).chunk(3, dim=-1)  # (B, N, token_dim) each
        return self.finish(performer_attention(q, k, v, self.w), v)  # (B, N, token_dim)

    def finish(self, mixed: Tensor, values: Tensor) -> Tensor:
        """What comes after the attention, of its answers and the values, (B, N, token_dim) each."""
        tokens = values + self.drop(self.proj(mixed))  # (B, N, token_dim)
        return tokens + self.mlp(self.norm2(tokens))

    def weights(self, tokens: Tensor) -> Tensor:
        """What each token looks at: (B, 1, N, N); N is 3136 in the first stage of a 224-pixel image."""
        k, q, _ = self.kqv(self.norm1(tokens)).chunk(3, dim=-1)  # (B, N, token_dim) each
        return performer_weights(q, k, self.w).unsqueeze(1)


class NarrowingAttention(nn.Module):
    """One head of softmax attention from `dim` to `token_dim`, scaled by dim^-0.5, with the values as residual."""

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        # The input's length, not the head's: released weights were trained so.
        self.scale = dim**-0.5
        self.qkv = nn.Linear(dim, 3 * token_dim, bias=False)
        self.proj = nn.Linear(token_dim, token_dim)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.mix(self.qkv(tokens))  # (B, N, token_dim)

    def mix(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values side by side (B, N, 3 token_dim) to (B, N, token_dim)."""
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)  # (B, 1, N, token_dim) each
        return (v + self.proj(attention(q, k, v, self.scale))).squeeze(1)

    def weights(self, tokens: Tensor) -> Tensor:
        """What each token looks at: (B, 1, N, N), rows sum to 1."""
        q, k, _ = self.qkv(tokens).unsqueeze(1).chunk(3, dim=-1)  # (B, 1, N, token_dim) each
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

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.finish(self.attn(self.norm1(tokens)))  # (B, N, token_dim)

    def finish(self, tokens: Tensor) -> Tensor:
        """What comes after the attention: (B, N, token_dim)."""
        return tokens + self.mlp(self.norm2(tokens))

    def weights(self, tokens: Tensor) -> Tensor:
        """What each token looks at: (B, 1, N, N); N is 3136 in the first stage of a 224-pixel image."""
        return self.attn.weights(self.norm1(tokens))


def restructure(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
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

        def token_attention(dim: int) -> TokenPerformer | TokenTransformer:
            if variant.tokens == "performer":
                return TokenPerformer(dim, variant.token_dim, performer_drop, approximate_gelu)
            return TokenTransformer(dim, variant.token_dim, approximate_gelu)

        first, second, third = variant.splits
        self.split0 = SoftSplitLayer(first)
        self.attention1 = token_attention(in_chans * first.kernel**2)
        self.split1 = SoftSplitLayer(second)
        self.attention2 = token_attention(variant.token_dim * second.kernel**2)
        self.split2 = SoftSplitLayer(third)
        self.project = nn.Linear(variant.token_dim * third.kernel**2, variant.dim)
        self.drop_block1, self.drop_block2 = DropBlock(drop_block), DropBlock(drop_block)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 224, 224)
        _, _, tokens = self.stages(images)
        return tokens  # (B, 196, dim)

    def stages(self, images: Tensor) -> Stages:
        """The maps after the first and the second attention, and the tokens."""
        tokens = self.attention1(self.split0(images))  # 3136 windows of 147 numbers -> (B, 3136, 64)
        fine = self.drop_block1(restructure(tokens, self.split0.grid(images)))  # (B, 64, 56, 56)
        tokens = self.attention2(self.split1(fine))  # 784 windows of 576 numbers -> (B, 784, 64)
        coarse = self.drop_block2(restructure(tokens, self.split1.grid(fine)))  # (B, 64, 28, 28)
        return fine, coarse, self.project(self.split2(coarse))  # 196 windows of 576 numbers -> (B, 196, dim)


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


class StemStage(nn.Module):
    """gelu(norm(conv(x))) on (B, C, H, W), with the windows of a soft split; the norm is over each place's channels."""

    def __init__(self, chans: int, dim: int, split: SoftSplit, approximate_gelu: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(chans, dim, split.kernel, split.stride, split.padding)
        self.norm = nn.LayerNorm(dim)
        self.act = gelu(approximate_gelu)

    def forward(self, features: Tensor) -> Tensor:  # (B, chans, H, W)
        places = self.conv(features).permute(0, 2, 3, 1)  # (B, rows, columns, dim)
        return self.act(self.norm(places)).permute(0, 3, 1, 2)  # (B, dim, rows, columns)


class StemTokens(nn.Module):
    """Three convolutions with the soft splits' windows, the first two with LayerNorm and GELU.

    For small images and little time: each window is looked at with the same weights, which attention has to learn,
    and it takes a fraction of attention's time. Shapes below are of a 32-pixel image in `t2t_vit_s_6`.

    Source: convolutional stems, Xiao et al. 2021, arXiv 2106.14881, and Hassani et al. 2021, arXiv 2104.05704; here
    with LayerNorm, which knows no batch, in place of their BatchNorm and pooling.
    """

    def __init__(self, variant: Variant, in_chans: int, *, drop_block: float, approximate_gelu: bool) -> None:
        super().__init__()
        fine, coarse = variant.map_widths
        first, second, third = variant.splits
        self.stage0 = StemStage(in_chans, fine, first, approximate_gelu)
        self.stage1 = StemStage(fine, coarse, second, approximate_gelu)
        self.project = nn.Conv2d(coarse, variant.dim, third.kernel, third.stride, third.padding)
        self.drop_block1, self.drop_block2 = DropBlock(drop_block), DropBlock(drop_block)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 32, 32)
        _, _, tokens = self.stages(images)
        return tokens  # (B, 16, dim)

    def stages(self, images: Tensor) -> Stages:
        """The maps after the first and the second stage, and the tokens."""
        fine = self.drop_block1(self.stage0(images))  # (B, 64, 16, 16)
        coarse = self.drop_block2(self.stage1(fine))  # (B, 128, 8, 8)
        return fine, coarse, self.project(coarse).flatten(2).transpose(1, 2)  # (B, 16, dim)
