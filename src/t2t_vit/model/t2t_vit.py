"""The Tokens-to-Token Vision Transformer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2t_vit.errors import UserError
from t2t_vit.model.backbone import build_blocks
from t2t_vit.model.drop import Dropout, share_seeds
from t2t_vit.model.head import GlobalPool, check_pool, pool
from t2t_vit.model.inputs import (
    Expected,
    PositionPolicy,
    default_cfg,
    positions_for,
    sinusoid_table,
    size_of,
    table_for_grid,
)
from t2t_vit.model.intermediates import feature_info, forward_intermediates, prune
from t2t_vit.model.parameters import Freezable, group_matcher, layer_groups
from t2t_vit.model.tokens_to_token import ConvolutionTokens, StemTokens, TokensToToken
from t2t_vit.variants import VARIANTS, Variant, find_variant

torch.fx.wrap("positions_for")  # it looks at sizes, so a tracer keeps it whole


class T2TViT(Freezable):
    """T2T module, class token, fixed sinusoid positions, a deep and narrow transformer, and a linear head.

    It computes what its modules show, with and without gradients; for speed see `t2t_vit.pack` and `t2t_vit.fuse`.
    The names in its state dict are those of the authors' code, so their weights load strictly; what they freeze
    (`pos_embed`, the performer's `w`) is a buffer here under the same name. Methods for downstream use have timm's
    names and meanings. `sample_seeds` makes dropout in training a function of one seed per sample.

    Args:
        variant: the row of the table to build.
        name: the name of the row, for files and messages.
        num_classes: length of the logits; 0 for a network without a head, which gives pooled features.
        in_chans: channels of an image.
        image_size: (height, width) in pixels.
        drop: dropout after positions, attention projections and in the MLPs.
        drop_path: share of samples that skip a residual branch, growing linearly from 0 to this at the last block.
        drop_block: share of the two inner token grids that is zeroed in squares.
        performer_drop: dropout inside the performers.
        approximate_gelu: the tanh form of GELU instead of the exact one.
        global_pool: what the head sees: "token" the class token, "avg" the mean of the others, "" all tokens.
        other_sizes: for images of another size than `image_size`: None refuses them; "rebuild" and "resize"
            accept them, with a position table computed in that way for each batch.

    Source: arXiv 2101.11986.
    """

    cls_token: nn.Parameter
    pos_embed: Tensor
    num_prefix_tokens = 1

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
        global_pool: GlobalPool = "token",
        other_sizes: PositionPolicy | None = None,
    ) -> None:
        super().__init__()
        self.name, self.variant, self.grad_checkpointing = name, variant, False
        self.num_classes, self.in_chans, self.image_size = num_classes, in_chans, image_size
        self.approximate_gelu, self.global_pool, self.other_sizes = approximate_gelu, global_pool, other_sizes
        self.grid, self.embed_dim = variant.grids(image_size)[-1], variant.dim
        self.head_hidden_size = self.num_features = variant.widths[-1]
        self.feature_info = feature_info(variant)
        self.pretrained_cfg: dict[str, Any] = default_cfg(variant, num_classes, in_chans, image_size)
        self.tokens_to_token: TokensToToken | ConvolutionTokens | StemTokens
        if variant.tokens == "convolution":
            self.tokens_to_token = ConvolutionTokens(variant, in_chans, drop_block=drop_block)
        elif variant.tokens == "stem":
            self.tokens_to_token = StemTokens(
                variant, in_chans, drop_block=drop_block, approximate_gelu=approximate_gelu
            )
        else:
            self.tokens_to_token = TokensToToken(
                variant,
                in_chans,
                drop_block=drop_block,
                performer_drop=performer_drop,
                approximate_gelu=approximate_gelu,
            )
        self.cls_token = nn.Parameter(torch.empty(1, 1, variant.dim))
        self.register_buffer("pos_embed", sinusoid_table(self.grid[0] * self.grid[1] + 1, variant.dim))
        self.pos_drop = Dropout(drop)
        self.blocks = build_blocks(variant, drop, drop_path, approximate_gelu)
        self.norm: nn.Module = nn.LayerNorm(self.num_features)
        self.head: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(_initialise)
        self.sample_seeds = share_seeds(self)

    def forward(self, images: Tensor) -> Tensor:  # (B, in_chans, height, width)
        return self.forward_head(self.forward_features(images))  # (B, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalised tokens (B, 1 + N, num_features), the class token first.

        Raises:
            ValueError: the images are not of the size or channels that the model was built for.
        """
        pos_embed = positions_for(images, self.pos_embed, self.expected)  # (1, 1 + N, dim)
        tokens = self.run(self.tokens_to_token, images)  # (B, N, dim)
        return self.encode(tokens, pos_embed)  # (B, 1 + N, num_features)

    def encode(self, tokens: Tensor, pos_embed: Tensor) -> Tensor:  # (B, N, dim), (1, 1 + N, dim)
        """The T2T module's tokens to normalised ones (B, 1 + N, num_features), the class token first."""
        tokens = self.embed(tokens, pos_embed)  # (B, 1 + N, dim)
        for block in self.blocks:
            tokens = self.run(block, tokens)
        return self.norm(tokens)

    def embed(self, tokens: Tensor, pos_embed: Tensor) -> Tensor:  # (B, N, dim), (1, 1 + N, dim)
        """The class token in front, positions on all: (B, 1 + N, dim)."""
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)  # (B, 1, dim)
        return self.pos_drop(torch.cat([cls_token, tokens], dim=1) + pos_embed)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, num_classes) from normalised tokens (B, 1 + N, num_features); `pre_logits`: what the head sees."""
        pooled = pool(tokens, self.global_pool)  # (B, num_features)
        return pooled if pre_logits else self.head(pooled)

    @property
    def expected(self) -> Expected:
        """The size and channels of the images that the model accepts."""
        return Expected(self.name, self.variant.splits, self.in_chans, self.image_size, self.other_sizes)

    def run(self, module: Callable[[Tensor], Any], inputs: Tensor) -> Any:
        """module(inputs); with gradient checkpointing, activations are not kept but computed again for the gradient."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, inputs, use_reentrant=False)
        return module(inputs)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Final and intermediate features; arguments and results are those of timm's vision transformers.

        Numbers 0 and 1 are the maps on the way to the tokens, in the paper's networks of strides 4 and 8 and 64
        channels; 2 is the first block, there of stride 16, -1 the last. `feature_info` lists those of this network.

        Args:
            x: images (B, in_chans, height, width).
            indices: which intermediates; an int n for the last n, None for all.
            return_prefix_tokens: return pairs of map and class token (B, 1, C); None for 0 and 1, which have none.
            norm: apply the final LayerNorm to the intermediates of blocks.
            stop_early: with `intermediates_only`, skip the blocks after the last requested one.
            output_fmt: "NCHW", "NHWC", "NLC" or "NCL"; L is H W, row by row.
            intermediates_only: return only the list.
            output_dict: return a dict with `image_intermediates`, `image_intermediates_prefix` and `image_features`.

        Raises:
            UserError: an unknown index or layout, or a norm that the network does not have.
        """
        return forward_intermediates(
            self, x, indices, return_prefix_tokens, norm, stop_early, output_fmt, intermediates_only, output_dict
        )

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that these intermediates do not need; returns their numbers, counted from the front.

        `feature_info` and `num_features` then describe the rest. A norm that does not fit the last block left,
        as in the dense network, goes with the others. `save_pretrained` refuses a network that lost blocks or norm.

        Raises:
            UserError: an unknown index, or a head that is kept but does not fit the last remaining block.
        """
        return prune(self, indices, prune_norm, prune_head)

    def get_classifier(self) -> nn.Module:
        """The head: a linear layer, or the identity if `num_classes` is 0."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: GlobalPool | None = None) -> None:
        """Replace the head by an untrained one for `num_classes`; 0 for none. `global_pool`: None changes nothing.

        Raises:
            UserError: a negative number, or an unknown pool.
        """
        if num_classes < 0:
            raise UserError(f"num_classes {num_classes}: a head has at least 1 class; 0 means no head")
        if global_pool is not None:
            check_pool(global_pool)
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head.to(device=self.cls_token.device, dtype=self.cls_token.dtype).apply(_initialise).train(self.training)
        self.pretrained_cfg = {**self.pretrained_cfg, "num_classes": num_classes}
        self.pretrained_cfg.pop("label_names", None)

    def set_input_size(self, image_size: int | tuple[int, int], position: PositionPolicy = "rebuild") -> None:
        """Accept images of another size from now on.

        Args:
            image_size: one side or (height, width) in pixels.
            position: "rebuild" computes the position table again, "resize" interpolates the existing one.

        Raises:
            UserError: the size is invalid or too small for a token, or the policy is unknown.
        """
        size = size_of(image_size)
        grid = self.variant.grids(size)[-1]
        self.pos_embed = table_for_grid(self.pos_embed, self.grid, grid, position)
        self.image_size, self.grid = size, grid
        self.pretrained_cfg = {**self.pretrained_cfg, "input_size": (self.in_chans, *size), "pool_size": grid}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training at the cost of time: T2T module and blocks are computed again for the gradient."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that should have no weight decay."""
        return {"cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names, by layer, in timm's form."""
        return group_matcher(coarse)

    def layer_groups(self) -> list[list[str]]:
        """Names of the parameters by layer, from the image to the head; see `t2t_vit.model.parameters`."""
        return layer_groups(self)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        preprocessing: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        **card: Any,
    ) -> None:
        """Write `config.json`, `model.safetensors` and a model card; see `t2t_vit.save_pretrained`."""
        from t2t_vit.model.pretrained import save_pretrained

        save_pretrained(self, folder, preprocessing=preprocessing, classes=classes, **card)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save to a repository of the Hugging Face hub; see `t2t_vit.push_to_hub`."""
        from t2t_vit.model.pretrained import push_to_hub

        return push_to_hub(self, repo_id, **options)

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, **options: Any) -> Self:
        """See `t2t_vit.from_pretrained`."""
        from t2t_vit.model.pretrained import from_pretrained

        return from_pretrained(path_or_repo, model_class=cls, **options)


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """Linear layers from a normal of deviation 0.02 cut at +-2, their biases 0, as the authors do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    image_size: int | tuple[int, int] = 224,
    drop: float = 0.0,
    drop_path: float = 0.0,
    drop_block: float = 0.0,
    performer_drop: float = 0.1,
    approximate_gelu: bool = False,
    global_pool: GlobalPool = "token",
    other_sizes: PositionPolicy | None = None,
) -> T2TViT:
    """A new model of the variant `name`, with initial weights; see `T2TViT` for the arguments.

    `image_size` is one side in pixels or (height, width).

    Raises:
        UserError: an unknown variant, or a value that no network can have.
    """
    variant = find_variant(name)
    size = size_of(image_size)
    check_pool(global_pool)
    if num_classes < 1 or in_chans < 1:
        raise UserError(
            f"num_classes {num_classes} and in_chans {in_chans}: both must be at least 1; "
            "for features without a head call reset_classifier(0)"
        )
    return T2TViT(
        variant,
        name,
        num_classes=num_classes,
        in_chans=in_chans,
        image_size=size,
        drop=drop,
        drop_path=drop_path,
        drop_block=drop_block,
        performer_drop=performer_drop,
        approximate_gelu=approximate_gelu,
        global_pool=global_pool,
        other_sizes=other_sizes,
    )


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return list(VARIANTS)
