"""The Tokens-to-Token Vision Transformer."""

import torch
from torch import Tensor, nn

from t2t_vit.model.block import Block
from t2t_vit.model.position import sinusoid_table
from t2t_vit.model.tokens_to_token import TokensToToken
from t2t_vit.variants import Variant


class T2TViT(nn.Module):
    """T2T module, class token, fixed sinusoid positions, a deep and narrow transformer, and a linear head.

    The names in its state dict are those of the authors' code, so their weights load strictly; what they freeze
    (`pos_embed`, the performer's `w`) is a buffer here under the same name.

    Args:
        variant: the row of the table to build.
        name: what the row is called, kept for files and messages.
        num_classes: length of the logits.
        in_chans: channels of an image.
        image_size: (height, width) in pixels.
        drop: dropout after positions, attention projections and in the MLPs.
        drop_path: share of samples that skip a residual branch, growing linearly from 0 to this at the last block.
        drop_block: share of the two inner token grids that is zeroed in squares.
        performer_drop: dropout inside the performers.
        approximate_gelu: the tanh form of GELU in place of the exact one.

    Source: arXiv 2101.11986.
    """

    cls_token: nn.Parameter
    pos_embed: Tensor

    def __init__(
        self,
        variant: Variant,
        name: str,
        *,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        drop: float,
        drop_path: float,
        drop_block: float,
        performer_drop: float,
        approximate_gelu: bool,
    ) -> None:
        super().__init__()
        self.name, self.variant = name, variant
        self.num_classes, self.in_chans, self.image_size = num_classes, in_chans, image_size
        self.grid = variant.grids(image_size)[-1]
        dim, depth = variant.dim, variant.depth
        self.tokens_to_token = TokensToToken(
            variant,
            in_chans,
            drop_block=drop_block,
            performer_drop=performer_drop,
            approximate_gelu=approximate_gelu,
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("pos_embed", sinusoid_table(self.grid[0] * self.grid[1] + 1, dim))
        self.pos_drop = nn.Dropout(drop)
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, variant.heads, variant.mlp_ratio, drop, rate, approximate_gelu) for rate in rates
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:  # (B, in_chans, height, width)
        return self.forward_head(self.forward_features(images))  # (B, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalised tokens (B, 1 + N, dim), the class token first.

        Raises:
            ValueError: the images are not of the size or channels that the model was built for.
        """
        if tuple(images.shape[1:]) != (self.in_chans, *self.image_size):
            wanted, got = (self.in_chans, *self.image_size), tuple(images.shape[1:])
            raise ValueError(
                f"{self.name} was built for images of {wanted}, got {got}: build it with that image_size and in_chans"
            )
        tokens = self.tokens_to_token(images)  # (B, N, dim)
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)  # (B, 1, dim)
        tokens = self.pos_drop(torch.cat([cls_token, tokens], dim=1) + self.pos_embed)  # (B, 1 + N, dim)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Logits (B, num_classes) from the class token of normalised tokens (B, 1 + N, dim)."""
        return self.head(tokens[:, 0])

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two and more dimensions that weight decay must leave alone."""
        return {"cls_token"}

    def _initialise(self) -> None:
        """Linear layers and the class token from a normal of deviation 0.02 cut at +-2, biases 0, as the authors do."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
