"""What the network makes on the way: maps of three strides, and the network as a backbone that gives them."""

from collections.abc import Sequence
from operator import index as as_integer
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn

from t2t_vit.errors import UserError
from t2t_vit.model.inputs import grid_of, positions_for
from t2t_vit.model.tokens_to_token import restructure
from t2t_vit.variants import Variant

if TYPE_CHECKING:
    from t2t_vit.model.t2t_vit import T2TViT

Indices = int | Sequence[int] | None
# timm's names of layouts: N images, C channels, H x W places, which are L in a row.
OutputFormat = Literal["NCHW", "NHWC", "NLC", "NCL"]
# The maps after the first two stages of the tokens-to-token module come before those of the blocks.
STAGES = 2
# The modules of the tokens-to-token module that end those stages.
MAPS = {
    "performer": ("attention1", "attention2"),
    "transformer": ("attention1", "attention2"),
    "convolution": ("soft_split0", "soft_split1"),
    "stem": ("stage0", "stage1"),
}


def feature_info(variant: Variant) -> list[dict[str, Any]]:
    """For each intermediate its channels, its stride and its module, as timm lists them."""
    fine, coarse, last = variant.strides
    names = MAPS[variant.tokens]
    info = [
        {"num_chs": width, "reduction": stride, "module": f"tokens_to_token.{name}"}
        for name, width, stride in zip(names, variant.map_widths, (fine, coarse), strict=True)
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
    try:
        if isinstance(indices, int):
            absolute = list(range(count - indices, count))
        else:
            wanted = [as_integer(index) for index in indices]
            absolute = [index + count if index < 0 else index for index in wanted]
    except TypeError:
        absolute = []
    if not absolute or min(absolute) < 0 or max(absolute) >= count:
        raise UserError(f"intermediates {indices}: there are {count}, numbered 0 to {count - 1}")
    return absolute


def check_request(model: "T2TViT", wanted: Sequence[int], norm: bool, output_fmt: str) -> None:
    """Refuse what `forward_intermediates` cannot give, before anything is computed.

    Raises:
        UserError: a layout that there is not; a norm that does not fit; a T2T module whose stages cannot be asked for.
    """
    if output_fmt not in get_args(OutputFormat):
        raise UserError(f"output_fmt '{output_fmt}' is not known; choose {', '.join(get_args(OutputFormat))}")
    if norm and isinstance(model.norm, nn.Identity):
        raise UserError(f"{model.name} has no norm: take its intermediates with norm=False")
    for number in wanted:
        width = model.feature_info[number]["num_chs"] if number < len(model.feature_info) else model.num_features
        if norm and number >= STAGES and width != model.num_features:
            raise UserError(
                f"{model.name}: intermediate {number} has {width} channels and cannot be normalised as the last "
                f"one with {model.num_features}: take it with norm=False"
            )
    tokens_to_token = model.tokens_to_token
    if not hasattr(tokens_to_token, "stages"):
        kind = type(tokens_to_token).__name__
        raise UserError(f"{model.name}: its tokens_to_token is a {kind}, which has no method stages to ask for maps")
    if _is_intercepted(tokens_to_token):
        raise UserError(
            f"{model.name}: tokens_to_token has a hook or its own forward, which the intermediates would bypass; "
            "remove it first, or give its class a method stages of its own"
        )


def _is_intercepted(module: nn.Module) -> bool:
    """Whether more happens when the module is called than its class says."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
        return True
    if module._backward_hooks or module._backward_pre_hooks:
        return True
    for kind in type(module).__mro__:
        if "stages" in vars(kind):
            return False
        if "forward" in vars(kind):
            return True
    return False


def run_intermediates(
    model: "T2TViT", images: Tensor, wanted: Sequence[int], norm: bool, stop_early: bool
) -> tuple[Tensor, dict[int, Tensor]]:
    """The normalised tokens, and number -> intermediate: maps (B, C, H, W) of the stages, tokens (B, 1 + N, C)."""
    pos_embed = positions_for(images, model.pos_embed, model.expected)
    fine, coarse, tokens = model.run(model.tokens_to_token.stages, images)
    kept = {number: features for number, features in enumerate((fine, coarse)) if number in wanted}
    tokens = model.embed(tokens, pos_embed)  # (B, 1 + N, dim)
    for number, block in enumerate(model.blocks, start=STAGES):
        if stop_early and number > max(wanted):
            break
        tokens = model.run(block, tokens)
        if number in wanted:
            kept[number] = model.norm(tokens) if norm else tokens
    return model.norm(tokens) if not stop_early else tokens, kept


def laid_out(number: int, features: Tensor, grid: tuple[int, int], output_fmt: str) -> tuple[Tensor, Tensor | None]:
    """An intermediate in a layout, and its class token (B, 1, C) apart; a stage has none."""
    if number < STAGES:
        rows, columns = features.shape[2:]
        return _in_layout(features.flatten(2).transpose(1, 2), (rows, columns), output_fmt), None
    return _in_layout(features[:, 1:], grid, output_fmt), features[:, :1]


def _in_layout(tokens: Tensor, grid: tuple[int, int], output_fmt: str) -> Tensor:
    """Tokens (B, N, C) of `grid` as an `OutputFormat`."""
    match output_fmt:
        case "NCHW":
            return restructure(tokens, grid)  # (B, C, H, W)
        case "NHWC":
            return tokens.reshape(tokens.shape[0], *grid, tokens.shape[2])  # (B, H, W, C)
        case "NCL":
            return tokens.transpose(1, 2)  # (B, C, N)
    return tokens


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
    wanted = taken(STAGES + len(model.blocks), indices)  # as many as there are now, whatever was done to the blocks
    check_request(model, wanted, norm, output_fmt)
    tokens, kept = run_intermediates(model, images, wanted, norm, stop_early and intermediates_only)
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


def prune(model: "T2TViT", indices: Indices, prune_norm: bool, prune_head: bool) -> list[int]:
    """See `T2TViT.prune_intermediate_layers`."""
    wanted = taken(len(model.feature_info), indices)
    left = model.feature_info[: max(max(wanted) + 1, STAGES)]
    width = left[-1]["num_chs"] if len(left) > STAGES else model.variant.dim
    fits = width == model.num_features  # not so in the dense network, whose blocks widen their tokens
    if not (fits or prune_head):
        raise UserError(
            f"{model.name}: without its last blocks its tokens have {width} channels, and its head takes "
            f"{model.num_features}: prune with prune_head=True"
        )
    model.blocks = model.blocks[: len(left) - STAGES]
    model.feature_info = left
    model.num_features = model.head_hidden_size = width
    if prune_norm or not fits:
        model.norm = nn.Identity()
    if prune_head:
        model.reset_classifier(0)
    return wanted


class FeaturesOnly(nn.Module):
    """The network as a backbone: images -> a list of feature maps at chosen places, and the class token.

        backbone = FeaturesOnly(model)              # strides 4, 8 and 16
        maps, class_token = backbone(images)        # (B, 64, 56, 56), (B, 64, 28, 28), (B, 384, 14, 14); (B, 384)

    Args:
        model: shared, not copied; its head is not used.
        indices: 0 and 1 are the maps after the first two stages of the tokens-to-token module, 2 and on the blocks.
        output_fmt: "NCHW" or "NHWC" for maps (B, C, H, W) or (B, H, W, C), "NLC" or "NCL" for tokens (B, H W, C) or
            (B, C, H W).
        norm: whether the final LayerNorm is applied to the maps of blocks.

    Attributes:
        channels, strides: of each map, in the order of `indices`.

    Raises:
        UserError: an unknown index or layout, or a block whose channels differ from the norm's.
    """

    def __init__(
        self, model: "T2TViT", indices: Sequence[int] = (0, 1, -1), *, output_fmt: str = "NCHW", norm: bool = True
    ) -> None:
        super().__init__()
        self.model, self.output_fmt, self.norm = model, output_fmt, norm
        self.indices = taken(len(model.feature_info), indices)
        check_request(model, self.indices, norm, output_fmt)
        info = [model.feature_info[index] for index in self.indices]
        self.channels = [entry["num_chs"] for entry in info]
        self.strides = [entry["reduction"] for entry in info]

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:  # (B, in_chans, height, width)
        wanted = taken(len(self.model.feature_info), self.indices)  # again: the network may have been pruned since
        check_request(self.model, wanted, self.norm, self.output_fmt)
        tokens, kept = run_intermediates(self.model, images, wanted, self.norm, False)
        grid = grid_of(images, self.model.variant.splits)
        maps = [laid_out(number, kept[number], grid, self.output_fmt)[0] for number in self.indices]
        return maps, tokens[:, 0]
