"""Soft split, LayerNorm and Linear as one operation: in plain PyTorch, and on a GPU without the windows in memory.

On the GPU the LayerNorm's own weights are folded into the linear layer's, so that the kernels
(`split_norm_linear_triton`) know only x^ = (x - mean) / deviation of a window:

    W (g x^ + d) + c = (W g) x^ + (W d + c)

All parameters' gradients follow from two sums over windows, P = sum x^ u^T and U = sum u for the answer's gradient u:
W gets P^T g + U d^T, g gets the rowwise sum of W^T and P, d gets W^T U, c gets U. What the norm takes off the gradient
v = (W g)^T u of x^ are two means over a window's n numbers, and neither needs v:

    mean(v) = u . colsum(W g) / n,    mean(v x^) = u . (y - (W d + c)) / n    for the answer y
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops.second_derivatives import differentiable_gradients
from t2t_vit.ops.soft_split import Window, soft_split

if TYPE_CHECKING:
    from t2t_vit.ops.split_norm_linear_triton import Form

# Numbers of an answer that are held in float32 at a time: 64 MB.
PIECE = 2**24


def split_norm_linear(
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """W LayerNorm(x) + b for each window x of a feature map, with W's product in `dtype`.

    Args:
        features: (B, C, H, W), of any strides.
        norm_weight, norm_bias: of the LayerNorm, (n,) with n = C kernel kernel, a window's channels varying slowest.
        weight, bias: of the linear layer, (out, n) and (out,).
        window: kernel, stride and padding in pixels of the map, as in `soft_split`.
        eps: of the LayerNorm.

    Returns:
        (B, N, out) in `dtype`, N windows row by row.
    """
    normed = F.layer_norm(soft_split(features, *window), norm_weight.shape, norm_weight, norm_bias, eps)
    return F.linear(normed.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def product_dtype(features: Tensor) -> torch.dtype:
    """What a linear layer multiplies in here: autocast's precision, except for float64, which autocast leaves alone."""
    kind = features.device.type
    if features.dtype is not torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return features.dtype


@torch.library.custom_op("t2t_vit::split_norm_linear_fused", mutates_args=())
def fused_split_norm_linear(
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """`split_norm_linear` by Triton, and each window's mean and reciprocal deviation, (B, N) in float32."""
    from t2t_vit.ops import split_norm_linear_triton as triton

    window = Window(*window)
    folded = _fold(weight.float() * norm_weight, triton.form(features, window), window, dtype)
    return triton.product(features, folded, _offset(weight, norm_bias, bias), window, eps)


@torch.library.custom_op("t2t_vit::split_norm_linear_fused_backward", mutates_args=())
def fused_backward(
    grad: Tensor,
    answer: Tensor,
    mean: Tensor,
    rstd: Tensor,
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    to_features: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, norm weight, norm bias, weight and bias, those of the four last in float32.

    Without `to_features` the first, which costs two thirds of the work, is empty.
    """
    from t2t_vit.ops import split_norm_linear_triton as triton

    window, grad = Window(*window), grad.contiguous()
    form = triton.form(features, window)
    back = features.new_empty(0)
    if to_features:
        folded = _fold(weight.float() * norm_weight, form, window, grad.dtype)
        means = _means(grad, answer, _offset(weight, norm_bias, bias), folded, weight.shape[1])
        slopes = (rstd * means[0], rstd.square() * means[1])
        back = triton.to_features(grad, features, (mean, rstd, *slopes), folded, window)
    products = _unfold(triton.correlation(grad, features, mean, rstd, window), form, window)  # (out, n)
    to_bias = grad.sum((0, 1), dtype=torch.float32)  # (out,)
    wide, column = weight.float(), to_bias.unsqueeze(1)  # (out, n), (out, 1)
    # Sums of products, not matrix products: those could be in TF32.
    to_norm_weight, to_norm_bias = (wide * products).sum(0), (wide * column).sum(0)  # (n,) each
    to_weight = products * norm_weight + column * norm_bias  # (out, n)
    return back, to_norm_weight, to_norm_bias, to_weight.float(), to_bias


@fused_split_norm_linear.register_fake
def _(
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = Window(*window).grid(features)
    images, count = features.shape[0], rows * columns
    mean, rstd = (features.new_empty(images, count, dtype=torch.float32) for _ in range(2))
    return features.new_empty(images, count, weight.shape[0], dtype=dtype), mean, rstd


@fused_backward.register_fake
def _(
    grad: Tensor,
    answer: Tensor,
    mean: Tensor,
    rstd: Tensor,
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    to_features: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out, length = weight.shape
    back = torch.empty_like(features) if to_features else features.new_empty(0)
    norm, wide, bias = (weight.new_empty(shape, dtype=torch.float32) for shape in ((length,), (out, length), (out,)))
    return back, norm, torch.empty_like(norm), wide, bias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.window, ctx.eps, ctx.dtype = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, _mean: Tensor, _rstd: Tensor) -> tuple[Tensor | None, ...]:
    answer, mean, rstd, *tensors = ctx.saved_tensors
    if torch.is_grad_enabled():  # the gradient is to be differentiated again, which the kernels can't
        plain = partial(split_norm_linear, window=ctx.window, eps=ctx.eps, dtype=ctx.dtype)
        return (*differentiable_gradients(plain, tensors, grad), None, None, None)
    wanted = ctx.needs_input_grad[0]
    back, *slopes = fused_backward(grad, answer, mean, rstd, *tensors, ctx.window, wanted)
    to_parameters = (
        None if parameter is None else slope.to(parameter.dtype)
        for slope, parameter in zip(slopes, tensors[1:], strict=True)
    )
    return back if wanted else None, *to_parameters, None, None, None


fused_split_norm_linear.register_autograd(_backward, setup_context=_setup)


def _offset(weight: Tensor, norm_bias: Tensor, bias: Tensor | None) -> Tensor:
    """W d + c, (out,) in float32."""
    offset = (weight.float() * norm_bias).sum(1)
    return offset if bias is None else offset + bias


def _means(grad: Tensor, answer: Tensor, offset: Tensor, folded: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """mean(v) and mean(v x^) of each window, (B, N) each; some images at a time, since it is done in float32."""
    columns = folded.sum(0, dtype=torch.float32)  # (out,)
    at_once = max(1, PIECE // grad[0].numel())
    pairs = zip(torch.split(grad, at_once), torch.split(answer, at_once), strict=True)
    # Sums of products, not matrix products: those could be in TF32.
    parts = [((u.float() * columns).sum(2), (u.float() * (y.float() - offset)).sum(2)) for u, y in pairs]
    plain, along = (torch.cat(found) / length for found in zip(*parts, strict=True))
    return plain, along


def _fold(weight: Tensor, form: "Form", window: Window, dtype: torch.dtype) -> Tensor:
    """(out, n), a window's channels varying slowest, in the order and length of the kernels' windows: (length, out)."""
    kernel = window.kernel
    planes = weight.reshape(len(weight), -1, kernel, kernel)  # (out, C, kernel, kernel)
    lines = planes.permute(0, 2, 3, 1) if form.last else planes
    filled = F.pad(lines, (0, form.side - form.real))  # (out, ..., side)
    return filled.flatten(1).t().to(dtype).contiguous()


def _unfold(weight: Tensor, form: "Form", window: Window) -> Tensor:
    """The way back from `_fold`: (length, out) to (out, n)."""
    kernel = window.kernel
    between = (kernel, kernel) if form.last else (-1, kernel)
    lines = weight.t().reshape(weight.shape[1], *between, form.side)[..., : form.real]  # (out, ..., real)
    planes = lines.permute(0, 3, 1, 2) if form.last else lines  # (out, C, kernel, kernel)
    return planes.flatten(1)
