"""The table of networks: one row a variant, free of torch, so that command line and model read the same rows.

Source of the figures: Yuan et al., Tokens-to-Token ViT (arXiv 2101.11986), table 1, and the authors' code and weights.
"""

import difflib
from dataclasses import dataclass
from typing import Literal

from t2t_vit.errors import UserError


@dataclass(frozen=True)
class SoftSplit:
    """Overlapping square windows of a grid, in pixels of that grid; each window becomes one token."""

    kernel: int
    stride: int
    padding: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Windows along each side: floor((side + 2 padding - kernel) / stride) + 1."""

        def along(side: int) -> int:
            return (side + 2 * self.padding - self.kernel) // self.stride + 1

        return along(height), along(width)


AUTHORS_SPLITS = (SoftSplit(7, 4, 2), SoftSplit(3, 2, 1), SoftSplit(3, 2, 1))
SMALL_SPLITS = (SoftSplit(7, 2, 3), SoftSplit(3, 2, 1), SoftSplit(3, 2, 1))  # 16 tokens of an image of 28 or 32 pixels


@dataclass(frozen=True)
class Variant:
    """One network: how it makes tokens, and the size of its backbone.

    `published_top1` is the accuracy in percent that the authors report on ImageNet at 224 pixels, and `weights_file`
    the name of the file that they released with it; None where there is none.

    `stages` and `growth` are of the dense network alone: blocks a stage, and what each block appends to a token;
    between two stages a token is halved.
    """

    tokens: Literal["performer", "transformer", "convolution", "stem"]
    dim: int
    depth: int
    heads: int
    mlp_ratio: float
    published_top1: float | None = None
    weights_file: str | None = None
    splits: tuple[SoftSplit, SoftSplit, SoftSplit] = AUTHORS_SPLITS
    token_dim: int = 64
    block: Literal["plain", "se", "ghost", "dense"] = "plain"
    stages: tuple[int, ...] = ()
    growth: int = 0

    @property
    def map_widths(self) -> tuple[int, int]:
        """Channels of the two maps on the way to the tokens; a stem doubles them as it halves the grid."""
        return self.token_dim, self.token_dim * (2 if self.tokens == "stem" else 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Length of a token after each entry of the backbone's `blocks`, the dense network's transitions included."""
        if not self.stages:
            return (self.dim,) * self.depth
        widths, width = [], self.dim
        for stage, layers in enumerate(self.stages):
            if stage > 0:
                width //= 2
                widths.append(width)
            for _ in range(layers):
                width += self.growth
                widths.append(width)
        return tuple(widths)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image between neighbouring tokens after each soft split."""
        first, second, third = (split.stride for split in self.splits)
        return first, first * second, first * second * third

    def grids(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Grid (height, width) in tokens after each of the three soft splits of an image of (height, width) pixels.

        Raises:
            UserError: the image is too small to hold one token.
        """
        grids, size = [], image_size
        for split in self.splits:
            size = split.grid(*size)
            grids.append(size)
        if min(size) < 1:
            raise UserError(
                f"image_size {image_size[0]}x{image_size[1]} is too small: no window of the soft splits fits"
            )
        return grids


VARIANTS: dict[str, Variant] = {
    "t2t_vit_7": Variant("performer", 256, 7, 4, 2, 71.7, "71.7_T2T_ViT_7.pth.tar"),
    "t2t_vit_10": Variant("performer", 256, 10, 4, 2, 75.2, "75.2_T2T_ViT_10.pth.tar"),
    "t2t_vit_12": Variant("performer", 256, 12, 4, 2, 76.5, "76.5_T2T_ViT_12.pth.tar"),
    "t2t_vit_14": Variant("performer", 384, 14, 6, 3, 81.5, "81.5_T2T_ViT_14.pth.tar"),
    "t2t_vit_19": Variant("performer", 448, 19, 7, 3, 81.9, "81.9_T2T_ViT_19.pth.tar"),
    "t2t_vit_24": Variant("performer", 512, 24, 8, 3, 82.3, "82.3_T2T_ViT_24.pth.tar"),
    "t2t_vit_t_14": Variant("transformer", 384, 14, 6, 3, 81.7, "81.7_T2T_ViTt_14.pth.tar"),
    "t2t_vit_t_19": Variant("transformer", 448, 19, 7, 3, 82.4, "82.4_T2T_ViTt_19.pth.tar"),
    "t2t_vit_t_24": Variant("transformer", 512, 24, 8, 3, 82.6, "82.6_T2T_ViTt_24.pth.tar"),
    # Without released weights; accuracies from the tables of the paper. The names are the authors': "14_wide" has 4
    # blocks, and "16_ghost" the 16 that its parameter count needs, where the paper's table says 14.
    "t2t_vit_14_resnext": Variant("performer", 384, 14, 32, 3, 81.5),
    "t2t_vit_14_wide": Variant("performer", 768, 4, 12, 3, 77.9),
    "t2t_vit_14_se": Variant("performer", 384, 14, 6, 3, 81.6, block="se"),
    "t2t_vit_dense": Variant("performer", 128, 19, 8, 2, 80.6, block="dense", stages=(3, 6, 6, 4), growth=64),
    "t2t_vit_16_ghost": Variant("performer", 384, 16, 6, 3, 79.5, block="ghost"),
    "t2t_vit_c_14": Variant("convolution", 384, 14, 6, 3, 80.8),
    # Ours, for a folder of some thousand images and minutes of a CPU: the preset `scratch`, 16 tokens at 64 pixels.
    "t2t_vit_4": Variant(
        "performer", 192, 4, 3, 2, splits=(SoftSplit(6, 4, 1), SoftSplit(3, 2, 1), SoftSplit(3, 2, 1)), token_dim=32
    ),
    # Ours, for images of 28 x 28 pixels: finer splits, for grids of 14, 7 and 4 tokens a side.
    "t2t_vit_quickstart": Variant("performer", 192, 4, 3, 2, splits=SMALL_SPLITS, token_dim=32),
    # Ours, for images of 28 to 64 pixels: a convolutional stem in place of the T2T module's attention. They have 0.8,
    # 1.0, 2.7 and 6.7 million parameters: the smaller ones for a CPU, the larger ones for a GPU or patience.
    "t2t_vit_s_4": Variant("stem", 128, 4, 2, 2, splits=SMALL_SPLITS, token_dim=64),
    "t2t_vit_s_6": Variant("stem", 128, 6, 2, 2, splits=SMALL_SPLITS, token_dim=64),
    "t2t_vit_s_8": Variant("stem", 192, 8, 3, 2, splits=SMALL_SPLITS, token_dim=64),
    "t2t_vit_s_12": Variant("stem", 256, 12, 4, 2, splits=SMALL_SPLITS, token_dim=64),
}


@dataclass(frozen=True)
class Release:
    """A weights file that the authors released: of which network, and its accuracy on ImageNet in percent."""

    arch: str
    file: str
    published_top1: float | None
    trained: str = "at 224 pixels"


# What the authors released, by the name that stands for it: that of a network, and further ones of their own.
RELEASES: dict[str, Release] = {
    **{name: Release(name, row.weights_file, row.published_top1) for name, row in VARIANTS.items() if row.weights_file},
    "t2t_vit_14_384": Release("t2t_vit_14", "83.3_T2T_ViT_14.pth.tar", 83.3, "at 384 pixels"),
    "t2t_vit_24_token_labels": Release(
        "t2t_vit_24", "84.2_T2T_ViT_24.pth.tar", 84.2, "at 224 pixels with token labels; its second head is left out"
    ),
}


def find_variant(name: str) -> Variant:
    """The row of that name.

    Raises:
        UserError: there is none; the nearest name is suggested.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    near = difflib.get_close_matches(name.lower(), VARIANTS, n=1, cutoff=0)[0]
    raise UserError(f"arch '{name}' is not known; did you mean '{near}'? All of them: {', '.join(VARIANTS)}")
