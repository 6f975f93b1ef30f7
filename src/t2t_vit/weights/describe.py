"""Which network tensors belong to, read off their names and shapes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.variants import VARIANTS, Variant, find_variant
from t2t_vit.weights.read import Weights

_FIRST_NORM = "tokens_to_token.attention1.norm1.weight"
_TOKEN_NORM = "tokens_to_token.attention1.norm2.weight"
_MLP = "blocks.0.mlp.fc1.weight"
_HEAD = "head.weight"
_POSITIONS = "pos_embed"


@dataclass(frozen=True)
class Description:
    """What shapes tell of a network.

    `num_classes` is None without a head; `image_size` (height, width) in pixels is None where the number of positions
    is no square, since many sizes fit then.
    """

    arch: str
    in_chans: int
    num_classes: int | None
    image_size: tuple[int, int] | None


def describe(tensors: Mapping[str, Tensor], path: str | Path, arch: str | None = None) -> Description:
    """The network that `tensors` fit.

    Args:
        tensors: state dict under the original's names.
        path: for messages.
        arch: the variant that they are expected to be of, or None to take the first that fits.

    Raises:
        UserError: they are of no variant, or not of `arch`.
    """
    fitting = [name for name, row in VARIANTS.items() if _fits(tensors, row)]
    if arch is not None:
        find_variant(arch)
    if not fitting:
        raise UserError(f"{path}: {_why_none_fits(tensors)}")
    if arch is not None and arch not in fitting:
        raise UserError(f"{path}: holds the weights of {' or '.join(fitting)}, not of arch '{arch}'")
    name = arch or fitting[0]
    head = tensors.get(_HEAD)
    return Description(
        arch=name,
        in_chans=len(tensors[_FIRST_NORM]) // VARIANTS[name].splits[0].kernel ** 2,
        num_classes=None if head is None or head.ndim == 0 else len(head),
        image_size=_image_size(tensors, VARIANTS[name]),
    )


def checkpoint_config(weights: Weights, arch: str | None = None) -> dict[str, Any]:
    """The flat configuration that travels with `weights`.

    Our own checkpoint's, with the class count of its head in place of `num_classes: 0`. Foreign weights bring what
    their tensors show, and the exact GELU, which weights that do not say were trained with.

    Raises:
        UserError: the tensors are of no variant, or not of `arch`.
    """
    if weights.config is not None:
        found = describe(weights.tensors, weights.path, arch or weights.config.get("arch"))
        shown = {"arch": found.arch, "in_chans": found.in_chans, "num_classes": found.num_classes}
        return {**weights.config, **_known(shown)}
    found = describe(weights.tensors, weights.path, arch)
    image_size = found.image_size
    shown = {
        "arch": found.arch,
        "in_chans": found.in_chans,
        "num_classes": found.num_classes,
        "image_size": image_size[0] if image_size else None,
        "disable_approximate_gelu": True,
    }
    return _known(shown)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _fits(tensors: Mapping[str, Tensor], row: Variant) -> bool:
    kind = "kqv" if row.tokens == "performer" else "attn.qkv"
    needed = (_FIRST_NORM, _TOKEN_NORM, _MLP, "cls_token", f"tokens_to_token.attention1.{kind}.weight")
    if any(name not in tensors for name in needed):
        return False
    if any(tensors[name].ndim == 0 for name in needed):
        return False
    return (
        tensors["cls_token"].shape[-1] == row.dim
        and _depth(tensors) == row.depth
        and len(tensors[_MLP]) == int(row.dim * row.mlp_ratio)
        and len(tensors[_TOKEN_NORM]) == row.token_dim
        and len(tensors[_FIRST_NORM]) % row.splits[0].kernel ** 2 == 0
    )


def _depth(tensors: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})


def _image_size(tensors: Mapping[str, Tensor], row: Variant) -> tuple[int, int] | None:
    """The square size, a multiple of all strides, whose grid has as many tokens as there are positions but one."""
    if _POSITIONS not in tensors or tensors[_POSITIONS].ndim != 3:
        return None
    count = tensors[_POSITIONS].shape[1] - 1
    side = math.isqrt(max(count, 0)) * math.prod(split.stride for split in row.splits)
    if side == 0:
        return None
    height, width = row.grids((side, side))[-1]
    return (side, side) if height * width == count else None


def _why_none_fits(tensors: Mapping[str, Tensor]) -> str:
    if not any(name.startswith("tokens_to_token.") for name in tensors):
        some = ", ".join(list(tensors)[:3])
        return f"holds the weights of another network, not of a T2T-ViT (its tensors: {some}, ...)"
    shape = tuple(tensors["cls_token"].shape) if "cls_token" in tensors else "missing"
    return f"fits none of {', '.join(VARIANTS)} (its cls_token is {shape}, its depth {_depth(tensors)})"
