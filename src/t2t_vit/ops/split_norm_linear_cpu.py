"""Soft split, LayerNorm and Linear on a CPU: a piece of the batch at a time, so that its windows stay in the cache."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops.soft_split import Window

# Numbers of a piece's windows: 2 MB in float32, which the second-level cache of one core holds.
PIECE = 2**19


class Piece(NamedTuple):
    """Windows of images `start` to `stop`, rows `top` to `bottom` of their grids."""

    start: int
    stop: int
    top: int
    bottom: int


def pieces(images: int, rows: int, columns: int, length: int) -> Iterator[Piece]:
    """Windows of `length` numbers in pieces of about `PIECE`: whole images, or some rows of one that is too large."""
    row = columns * length
    step, band = max(1, PIECE // (rows * row)), min(rows, max(1, PIECE // row))
    for start in range(0, images, step):
        for top in range(0, rows, band):
            yield Piece(start, min(start + step, images), top, min(top + band, rows))


def forward_by_pieces(
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """(B, rows columns, out) in `dtype`; see `split_norm_linear`. `window` is its kernel, stride and padding."""
    window = Window(*window)
    rows, columns = window.grid(features)
    views = _views(features, window)
    norm_weight, norm_bias, weight = (_last(tensor, window.kernel) for tensor in (norm_weight, norm_bias, weight))
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    out = features.new_empty(len(features), rows * columns, len(weight), dtype=dtype)
    for piece in pieces(len(features), rows, columns, weight.shape[1]):
        tokens = _tokens(views, piece)  # (b, rows, columns, n)
        tokens = F.layer_norm(tokens, norm_weight.shape, norm_weight, norm_bias, eps).to(dtype)
        answer = F.linear(tokens, weight, bias)
        out[piece.start : piece.stop, piece.top * columns : piece.bottom * columns] = answer.flatten(1, 2)
    return out


def backward_by_pieces(
    grad: Tensor,
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    window: Sequence[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of features, norm weight, norm bias and weight from that of the answer, (B, N, out)."""
    window = Window(*window)
    kernel, _, edge = window
    images, channels, height, width = features.shape
    views = _views(features, window)
    norm_weight, norm_bias, weight = (_last(tensor, kernel) for tensor in (norm_weight, norm_bias, weight))
    low_weight, grad = weight.to(grad.dtype), grad.reshape(images, *views.shape[1:3], -1)  # (B, rows, columns, out)
    # What is summed over windows or pieces is summed in float32 at least.
    padded = features.new_zeros(images, height + 2 * edge, width + 2 * edge, channels, dtype=_precise(features))
    sums = [torch.zeros_like(tensor, dtype=_precise(tensor)) for tensor in (norm_weight, norm_bias, weight)]
    for piece in pieces(images, views.shape[1], views.shape[2], weight.shape[1]):
        tokens = _tokens(views, piece)  # (b, rows, columns, n)
        slope = grad[piece.start : piece.stop, piece.top : piece.bottom]  # (b, rows, columns, out)
        normed, mean, rstd = torch.native_layer_norm(tokens, norm_weight.shape, norm_weight, norm_bias, eps)
        sums[2] += slope.flatten(0, 2).t().to(sums[2].dtype) @ normed.flatten(0, 2).to(sums[2].dtype)
        back, *norms = torch.ops.aten.native_layer_norm_backward(
            (slope @ low_weight).to(tokens.dtype),
            tokens,
            norm_weight.shape,
            mean,
            rstd,
            norm_weight,
            norm_bias,
            [True, True, True],
        )
        sums[0] += norms[0]
        sums[1] += norms[1]
        _add_back(padded, back, piece, window)
    inner = padded[:, edge : edge + height, edge : edge + width].permute(0, 3, 1, 2)  # (B, C, H, W)
    first, second, third = (_first(total, kernel) for total in sums)
    return inner.to(features.dtype).contiguous(), first, second, third


split_norm_linear_cpu = torch.library.custom_op("t2t_vit::split_norm_linear_cpu", forward_by_pieces, mutates_args=())


@split_norm_linear_cpu.register_fake
def _(
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    rows, columns = Window(*window).grid(features)
    return features.new_empty(features.shape[0], rows * columns, weight.shape[0], dtype=dtype)


split_norm_linear_cpu_backward = torch.library.custom_op(
    "t2t_vit::split_norm_linear_cpu_backward", backward_by_pieces, mutates_args=()
)


@split_norm_linear_cpu_backward.register_fake
def _(
    grad: Tensor,
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    window: Sequence[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, second, third = (
        torch.empty_like(tensor, dtype=_precise(tensor), memory_format=torch.contiguous_format)
        for tensor in (norm_weight, norm_bias, weight)
    )
    return torch.empty_like(features, memory_format=torch.contiguous_format), first, second, third


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, norm_weight, norm_bias, weight, bias, ctx.window, ctx.eps, _ = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(features, norm_weight, norm_bias, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, norm_weight, norm_bias, weight = ctx.saved_tensors
    back = split_norm_linear_cpu_backward(grad, features, norm_weight, norm_bias, weight, ctx.window, ctx.eps)
    to_parameters = [slope.to(ours.dtype) for slope, ours in zip(back[1:], ctx.saved_tensors[1:], strict=True)]
    to_bias = None
    if ctx.bias_dtype is not None:
        to_bias = grad.sum((0, 1), dtype=_precise(grad)).to(ctx.bias_dtype)
    return back[0], *to_parameters, to_bias, None, None, None


split_norm_linear_cpu.register_autograd(_backward, setup_context=_setup)


def _views(features: Tensor, window: Window) -> Tensor:
    """All windows as a view of one padded copy of the map: (B, rows, columns, C, kernel, kernel)."""
    kernel, stride, edge = window
    padded = F.pad(features.permute(0, 2, 3, 1), (0, 0, edge, edge, edge, edge))
    return padded.unfold(1, kernel, stride).unfold(2, kernel, stride)


def _tokens(views: Tensor, piece: Piece) -> Tensor:
    """A piece's windows, made: (b, rows, columns, kernel kernel C); long runs, since channels vary fastest."""
    part = views[piece.start : piece.stop, piece.top : piece.bottom]
    return part.permute(0, 1, 2, 4, 5, 3).flatten(3)


def _add_back(padded: Tensor, tokens: Tensor, piece: Piece, window: Window) -> None:
    """Add a piece's windows to where they were taken from."""
    kernel, stride, _ = window
    rows, columns = tokens.shape[1:3]
    tokens = tokens.view(*tokens.shape[:3], kernel, kernel, -1)
    images = padded[piece.start : piece.stop]
    for i in range(kernel):
        top = piece.top * stride + i
        band = images[:, top : top + rows * stride : stride]
        for j in range(kernel):
            band[:, :, j : j + columns * stride : stride] += tokens[:, :, :, i, j]


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _last(tensor: Tensor, kernel: int) -> Tensor:
    """(..., C kernel kernel) with the channels of a window varying fastest."""
    return tensor.reshape(*tensor.shape[:-1], -1, kernel, kernel).movedim(-3, -1).flatten(-3).contiguous()


def _first(tensor: Tensor, kernel: int) -> Tensor:
    """The way back from `_last`."""
    return tensor.reshape(*tensor.shape[:-1], kernel, kernel, -1).movedim(-1, -3).flatten(-3).contiguous()
