"""Products in float32 by the compiled kernels, out of products in bfloat16: parts.h and linear.cpp say how."""

import ctypes
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2t_vit.ops.native.arguments import address, check, threads, whole
from t2t_vit.ops.native.library import has_tiles, library, unavailable
from t2t_vit.ops.native.tail import ACTIVATIONS

LINES, DEPTH, PARTS = 32, 32, 3  # lines and depth are filled up with zeros to multiples of these
NARROW = 128  # below this length torch's own products are as fast
MOST_DEPTH = 512  # so much of a product's right side stays in the caches
_kept = threading.local()


def multiplies(weight: Tensor) -> bool:
    """Whether products with this weight are for the kernels: in float32, of some width, with a matrix unit."""
    return weight.dtype is torch.float32 and min(weight.shape) >= NARROW and unavailable() is None and has_tiles()


class PartedLayer(NamedTuple):
    """A linear layer in float32 as the kernel reads it.

    weight  its three parts, which are bfloat16, as linear.cpp lays them out
    bias    (out,) or None
    width   out
    depth   in
    """

    weight: Tensor
    bias: Tensor | None
    width: int
    depth: int

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> "PartedLayer":
        """From a weight (out, in) and a bias (out,) in float32."""
        weight = weight.detach().contiguous()
        parts = _room(*weight.shape)
        library().lay_out_f32(address(weight), _side(weight, along=True), address(parts), threads())
        return cls(parts, None if bias is None else bias.detach().contiguous(), *weight.shape)


def native_linear(
    inputs: Tensor, layer: PartedLayer, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """activation(W x + b) + residual; no gradient.

    Args:
        inputs: (..., in) in float32.
        residual: (..., out) in float32.

    Returns:
        (..., out).
    """
    check(inputs.dtype is torch.float32 and inputs.shape[-1] == layer.depth, "native_linear")
    rows = inputs.reshape(-1, layer.depth).contiguous()
    out = inputs.new_empty(*inputs.shape[:-1], layer.width)
    added = None if residual is None else residual.contiguous()
    check(added is None or (added.dtype is torch.float32 and added.shape == out.shape), "native_linear")
    library().product_f32(
        address(rows),
        _side(rows, along=True),
        address(layer.weight),
        address(layer.bias),
        address(added),
        address(out),
        whole(layer.width, layer.width, ACTIVATIONS.index(activation)),
        threads(),
    )
    return out


def native_product(
    left: Tensor, right: Tensor, bias: Tensor | None = None, *, left_along: bool = True, right_along: bool = False
) -> Tensor:
    """left right + bias in float32, with a gradient.

    Args:
        left: (rows, depth), or (depth, rows) where it is not `left_along`.
        right: (depth, columns), or (columns, depth) where it is `right_along`.
        bias: (columns,).

    Returns:
        (rows, columns); the same from run to run and for any number of threads.
    """
    return torch.ops.t2t_vit.native_product.default(left, left_along, right, right_along, bias)


def _multiply(left: Tensor, left_along: bool, right: Tensor, right_along: bool, bias: Tensor | None) -> Tensor:
    out = _fake(left, left_along, right, right_along, bias)
    left, right = left.contiguous(), right.contiguous()
    added = None if bias is None else bias.contiguous()
    (rows, columns), depth = out.shape, left.shape[1 if left_along else 0]
    if 0 in (rows, columns, depth):
        return out.zero_() if added is None else out.copy_(added)
    parts = -(-depth // MOST_DEPTH)
    most = -(-depth // (parts * DEPTH)) * DEPTH
    room = _kept_room(columns, most)
    library().product_of_f32(
        address(left),
        _side(left, along=left_along),
        address(right),
        _side(right, along=right_along),
        address(added),
        address(out),
        address(room),
        ctypes.c_int64(most),
        threads(),
    )
    return out


def _side(matrix: Tensor, *, along: bool) -> ctypes.Array[ctypes.c_int64]:
    """A side of a product: the distance of its rows in memory, whether lines are rows, their number and depth."""
    lines, depth = matrix.shape if along else matrix.shape[::-1]
    return whole(matrix.shape[1], int(along), lines, depth)


def _room(lines: int, depth: int) -> Tensor:
    """Memory for a right side's parts."""
    return torch.empty(_numbers(lines, depth), dtype=torch.bfloat16, device="cpu")


def _numbers(lines: int, depth: int) -> int:
    return -(-lines // LINES) * LINES * -(-depth // DEPTH) * DEPTH * PARTS


def _kept_room(lines: int, depth: int) -> Tensor:
    """The same memory for each product of a thread: what was just written is in the caches, new memory is not."""
    numbers = _numbers(lines, depth)
    if not hasattr(_kept, "room") or len(_kept.room) < numbers:
        _kept.room = _room(lines, depth)
    return _kept.room


def _fake(left: Tensor, left_along: bool, right: Tensor, right_along: bool, bias: Tensor | None) -> Tensor:
    rows, depth = left.shape if left_along else left.shape[::-1]
    columns, other = right.shape if right_along else right.shape[::-1]
    of_float = all(tensor is None or tensor.dtype is torch.float32 for tensor in (left, right, bias))
    check(of_float and depth == other and (bias is None or bias.shape == (columns,)), "native_product")
    return left.new_empty(rows, columns)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    left, ctx.left_along, right, ctx.right_along, _ = inputs
    ctx.save_for_backward(left, right)


def _backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, Tensor | None]:
    """Each gradient is again a product of two of the three, so that it has one, too."""
    left, right = ctx.saved_tensors
    of_left = of_right = None
    if ctx.needs_input_grad[0]:
        of_left = _turned_product(slope, True, right, not ctx.right_along, turned=not ctx.left_along)
    if ctx.needs_input_grad[2]:
        of_right = _turned_product(slope, False, left, not ctx.left_along, turned=not ctx.right_along)
    return of_left, None, of_right, None, slope.sum(0) if ctx.needs_input_grad[4] else None


def _turned_product(left: Tensor, left_along: bool, right: Tensor, right_along: bool, *, turned: bool) -> Tensor:
    """The product, or its transpose."""
    if turned:
        left, left_along, right, right_along = right, right_along, left, left_along
    return torch.ops.t2t_vit.native_product.default(left, left_along, right, right_along, None)


_LIBRARY: Any = torch.library.Library("t2t_vit", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("native_product(Tensor left, bool left_along, Tensor right, bool right_along, Tensor? bias) -> Tensor")
_LIBRARY.impl("native_product", _multiply, "CPU")
torch.library.register_fake("t2t_vit::native_product", _fake, lib=_LIBRARY)
torch.library.register_autograd("t2t_vit::native_product", _backward, setup_context=_keep, lib=_LIBRARY)
