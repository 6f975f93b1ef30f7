"""What the network makes on the way: maps at strides 4, 8 and 16."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.model.position import grid_of, positions_for
from t2t_vit.model.tokens_to_token import restructure
from t2t_vit.variants import Variant

if TYPE_CHECKING:
    from t2t_vit.model.t2t_vit import T2TViT

Indices = int | Sequence[int] | None
# The maps after the two attentions of the tokens-to-token module come before those of the blocks.
STAGES = 2


def feature_info(variant: Variant) -> list[dict[str, Any]]:
    """For each intermediate its channels, its stride and its module, as timm lists them."""
    fine, coarse, last = variant.strides
    convolution = variant.tokens == "convolution"
    names = ("soft_split0", "soft_split1") if convolution else ("attention1", "attention2")
    info = [
        {"num_chs": variant.token_dim, "reduction": stride, "module": f"tokens_to_token.{name}"}
        for name, stride in zip(names, (fine, coarse), strict=True)
    ]
    return info + [
        {"num_chs": width, "reduction": last, "module": f"blocks.{number}"}
        for number, width in enumerate(variant.widths)
    ]


def taken(count: int, indices: Indices) -> list[int]:
    """`indices` of `count` things: None is all of them, an int the last so many, negative ones count from the end.

    Raises:
        UserError: there is no such thing.
    """
    if indices is None:
        return list(range(count))
    wanted = list(range(count - indices, count)) if isinstance(indices, int) else [int(index) for index in indices]
    absolute = [index + count if index < 0 and not isinstance(indices, int) else index for index in wanted]
    if not absolute or min(absolute) < 0 or max(absolute) >= count:
        raise UserError(f"intermediates {indices}: there are {count}, numbered 0 to {count - 1}")
    return absolute


def run_intermediates(
    model: "T2TViT", images: Tensor, indices: Indices, norm: bool, stop_early: bool
) -> tuple[Tensor, dict[int, Tensor]]:
    """The normalised tokens, and number -> intermediate: maps (B, C, H, W) of the stages, tokens (B, 1 + N, C)."""
    wanted = set(taken(len(model.feature_info), indices))
    pos_embed = positions_for(images, model.pos_embed, model.expected)
    fine, coarse, tokens = model.run(model.tokens_to_token.stages, images)
    kept = {number: features for number, features in enumerate((fine, coarse)) if number in wanted}
    tokens = model.embed(tokens, pos_embed)  # (B, 1 + N, dim)
    for number, block in enumerate(model.blocks, start=STAGES):
        if stop_early and number > max(wanted):
            break
        tokens = model.run(block, tokens)
        if number in wanted:
            kept[number] = _normalised(model, tokens, number) if norm else tokens
    return model.norm(tokens) if not stop_early else tokens, kept


def _normalised(model: "T2TViT", tokens: Tensor, number: int) -> Tensor:
    if tokens.shape[-1] != model.num_features:
        raise UserError(
            f"{model.name}: intermediate {number} has {tokens.shape[-1]} channels and cannot be normalised as the last "
            f"one with {model.num_features}: take it with norm=False"
        )
    return model.norm(tokens)


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, 1 + N, C), class token first, to the map (B, C, *grid) of the others."""
    return restructure(tokens[:, 1:], grid)


def laid_out(number: int, features: Tensor, grid: tuple[int, int], output_fmt: str) -> tuple[Tensor, Tensor | None]:
    """An intermediate as NCHW or NLC, and its class token (B, 1, C) apart; a stage has none.

    Raises:
        UserError: another layout.
    """
    if output_fmt not in ("NCHW", "NLC"):
        raise UserError(f"output_fmt '{output_fmt}' is not known; choose NCHW or NLC")
    if number < STAGES:
        return features if output_fmt == "NCHW" else features.flatten(2).transpose(1, 2), None
    class_token = features[:, :1]
    return as_map(features, grid) if output_fmt == "NCHW" else features[:, 1:], class_token


def forward_intermediates(
    model: "T2TViT",
    images: Tensor,
    indices: Indices = None,
    return_prefix_tokens: bool = False,
    norm: bool = False,
    stop_early: bool = False,
    output_fmt: str = "NCHW",
    intermediates_only: bool = False,
    output_dict: bool = False,
) -> Any:
    """See `T2TViT.forward_intermediates`."""
    tokens, kept = run_intermediates(model, images, indices, norm, stop_early and intermediates_only)
    wanted = taken(len(model.feature_info), indices)
    grid = grid_of(images, model.variant.splits)
    pairs = [laid_out(number, kept[number], grid, output_fmt) for number in wanted]
    features = [feature for feature, _ in pairs]
    if output_dict:
        found: dict[str, Any] = {"image_intermediates": features}
        if return_prefix_tokens:
            found["image_intermediates_prefix"] = [class_token for _, class_token in pairs]
        return found if intermediates_only else {**found, "image_features": tokens}
    answers: list[Any] = list(pairs) if return_prefix_tokens else list(features)
    return answers if intermediates_only else (tokens, answers)
