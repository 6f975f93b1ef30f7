"""Which network tensors belong to, read off their names and shapes."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.model import create_model
from t2t_vit.model.inputs import MOST_TOKENS, check_tokens, size_of
from t2t_vit.model.skeleton import skeleton
from t2t_vit.variants import VARIANTS, Variant, find_variant

if TYPE_CHECKING:
    from t2t_vit.weights.reading import Weights

HEAD = ("head.weight", "head.bias")
POSITIONS = "pos_embed"
Shape = tuple[int, ...]

# Where names have to be a variant's own; others may lie beside the network (an auxiliary head).
_BODY = ("tokens_to_token.", "blocks.", "norm.", "cls_token")
_MOST_MISSING = 0.5


@dataclass(frozen=True)
class Channels:
    """Where a tensor's shape grows with the input channels: `axis` has `window` entries for each of them."""

    axis: int
    window: int

    def count(self, shape: Shape, expected: Shape) -> int | None:
        """Channels of a tensor of `shape`, where `expected` is that of another count; None if it is no such tensor."""
        same = len(shape) == len(expected) and all(
            one == other for axis, (one, other) in enumerate(zip(shape, expected, strict=True)) if axis != self.axis
        )
        return shape[self.axis] // self.window if same and shape[self.axis] % self.window == 0 else None


@cache
def shapes(arch: str, in_chans: int = 3) -> Mapping[str, Shape]:
    """The state dict of `arch` with 1000 classes at 224 pixels."""
    model = skeleton(lambda: create_model(arch, in_chans=in_chans))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@cache
def channel_layers(arch: str) -> Mapping[str, Channels]:
    """The tensors of `arch` that see the channels of the image; none of a network that is not in the table."""
    if arch not in VARIANTS:
        return {}
    three, four = shapes(arch, 3), shapes(arch, 4)
    found = {}
    for name, shape in three.items():
        for axis, (small, large) in enumerate(zip(shape, four[name], strict=True)):
            if small != large:
                found[name] = Channels(axis, large - small)
    return found


@dataclass(frozen=True)
class Description:
    """What shapes tell of a network.

    `num_classes` is None without a head; `image_size` (height, width) in pixels is None where the number of positions
    is no square, since many sizes fit then. `fitting` are all variants that the tensors fit, `arch` the first or the
    expected one.
    """

    arch: str
    in_chans: int
    num_classes: int | None
    image_size: tuple[int, int] | None
    fitting: tuple[str, ...] = ()


def describe(tensors: Mapping[str, Tensor], path: str | Path, arch: str | None = None) -> Description:
    """The network that `tensors` fit.

    Args:
        tensors: state dict under the original's names.
        path: for messages.
        arch: the variant that they are expected to be of, or None to take the first that fits.

    Raises:
        UserError: they are of no variant, or not of `arch`.
    """
    if arch is not None:
        find_variant(arch)
    missing = {name: count for name in VARIANTS if (count := _missing(tensors, name)) is not None}
    fitting = [name for name, count in missing.items() if count == min(missing.values())]
    if not fitting:
        raise UserError(f"{path}: {_why_none_fits(tensors)}")
    if arch is not None and arch not in fitting:
        raise UserError(f"{path}: holds the weights of {' or '.join(fitting)}, not of arch '{arch}'")
    name = arch or fitting[0]
    head = tensors.get(HEAD[0])
    return Description(
        arch=name,
        in_chans=_in_chans(tensors, name),
        num_classes=None if head is None or head.ndim == 0 else len(head),
        image_size=_image_size(tensors, VARIANTS[name]),
        fitting=tuple(fitting),
    )


def checkpoint_config(weights: "Weights", arch: str | None = None) -> dict[str, Any]:
    """The flat configuration that travels with `weights`.

    Our own checkpoint's or the folder's, with the class count of its head in place of `num_classes: 0`. Foreign weights
    bring what their tensors show, and the exact GELU, which weights that do not say were trained with.

    Raises:
        UserError: the tensors are of no variant, or not of `arch`.
    """
    if weights.config is not None:
        _check_size(weights)
        found = describe(weights.tensors, weights.path, arch or weights.config.get("arch"))
        shown = {"arch": found.arch, "in_chans": found.in_chans, "num_classes": found.num_classes}
        size = {"image_size": found.image_size[0]} if found.image_size else {}
        return {**size, **weights.config, **_known(shown)}
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


def _check_size(weights: "Weights") -> None:
    """Refuse a size whose positions alone would take the memory of many files.

    Raises:
        UserError: it is none, or has more than `MOST_TOKENS` where the file has no table for them.
    """
    assert weights.config is not None
    row, size = VARIANTS.get(str(weights.config.get("arch"))), weights.config.get("image_size")
    table = weights.tensors.get(POSITIONS)
    is_held = table is not None and table.ndim == 3 and table.shape[1] > MOST_TOKENS
    if row is not None and size is not None and not is_held:
        try:
            check_tokens(row, size_of(size))
        except UserError as error:
            raise UserError(f"{weights.path}: its configuration cannot be used: {error}") from None


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _missing(tensors: Mapping[str, Tensor], arch: str) -> int | None:
    """How many of the tensors of `arch` are missing; None if a name or a shape is not its own, or too many are."""
    expected, optional = shapes(arch), (*HEAD, POSITIONS)
    body = [name for name in tensors if name.startswith(_BODY)]
    needed = [name for name in expected if name not in optional]
    missing = sum(name not in tensors for name in needed)
    if any(name not in expected for name in body) or missing > len(needed) * _MOST_MISSING:
        return None
    if _blocks(tensors) != _blocks(expected):
        return None
    layers = channel_layers(arch)
    for name in needed:
        shape = tuple(tensors[name].shape) if name in tensors else expected[name]
        if shape != expected[name] and (name not in layers or not layers[name].count(shape, expected[name])):
            return None
    return missing


def _in_chans(tensors: Mapping[str, Tensor], arch: str) -> int:
    """As many as most of the first layers have; where they disagree, the fit tells."""
    counts = [
        layer.count(tuple(tensors[name].shape), shapes(arch)[name])
        for name, layer in channel_layers(arch).items()
        if name in tensors
    ]
    return next((count for count in counts if count), 3)


def _blocks(names: Iterable[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("blocks.")}


def _image_size(tensors: Mapping[str, Tensor], row: Variant) -> tuple[int, int] | None:
    """The square size, a multiple of all strides, whose grid has as many tokens as there are positions but one."""
    if POSITIONS not in tensors or tensors[POSITIONS].ndim != 3:
        return None
    count = tensors[POSITIONS].shape[1] - 1
    side = math.isqrt(max(count, 0)) * math.prod(split.stride for split in row.splits)
    if side == 0:
        return None
    height, width = row.grids((side, side))[-1]
    return (side, side) if height * width == count else None


def sizes_of(tensors: Mapping[str, Tensor], arch: str) -> str:
    """What to say where no square image has as many tokens as the weights of `arch` have positions."""
    table = tensors.get(POSITIONS)
    if table is None or table.ndim != 3 or table.shape[1] < 2:
        return f"does not give the size of its images, because it has no {POSITIONS}; give image_size"
    count, row = table.shape[1] - 1, VARIANTS[arch]
    stride = math.prod(split.stride for split in row.splits)
    sides = [side for side in range(1, math.isqrt(count) + 1) if count % side == 0]
    sizes = [(side * stride, count // side * stride) for side in sides]
    fitting = [size for size in sizes if row.grids(size)[-1] == (size[0] // stride, size[1] // stride)]
    example = f", such as {fitting[-1][0]} {fitting[-1][1]} or {fitting[-1][1]} {fitting[-1][0]}" if fitting else ""
    return (
        f"its {POSITIONS} has {count} positions besides the class token, which do not form a square; give image_size "
        f"as the height and width of images with {count} tokens{example}"
    )


def _why_none_fits(tensors: Mapping[str, Tensor]) -> str:
    if not any(name.startswith("tokens_to_token.") for name in tensors):
        some = ", ".join(list(tensors)[:3])
        return f"holds the weights of another network, not of a T2T-ViT (its tensors: {some}, ...)"
    shape = tuple(tensors["cls_token"].shape) if "cls_token" in tensors else "missing"
    return f"matches none of {', '.join(VARIANTS)} (its cls_token is {shape}, its depth {len(_blocks(tensors))})"
