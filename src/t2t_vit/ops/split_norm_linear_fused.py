"""Soft split, LayerNorm and Linear on a GPU, as two operations that torch sees: the answer, and its gradients.

The LayerNorm's own weights are folded into the linear layer's, so that the kernels (`split_norm_linear_triton`) know
only x^ = (x - mean) / deviation of a window:

    W (g x^ + d) + c = (W g) x^ + (W d + c)

All parameters' gradients follow from two sums over windows, P = sum x^ u^T and U = sum u for the answer's gradient u:
W gets P^T g + U d^T, g gets the rowwise sum of W^T and P, d gets W^T U, c gets U.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops.soft_split import Window

if TYPE_CHECKING:
    from t2t_vit.ops.split_norm_linear_triton import Form


@torch.library.custom_op("t2t_vit::split_norm_linear_fused", mutates_args=())
def fused(
    features: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The answer (B, N, out) in `dtype`, and each window's mean and reciprocal deviation, (B, N) in float32."""
    from t2t_vit.ops import split_norm_linear_triton as triton

    window = Window(*window)
    wide = weight.float()
    folded = _fold(wide * norm_weight, triton.form(features, window), window, dtype)
    offset = (wide * norm_bias).sum(1)
    return triton.product(features, folded, offset if bias is None else offset + bias, window, eps)


@torch.library.custom_op("t2t_vit::split_norm_linear_fused_backward", mutates_args=())
def fused_backward(
    grad: Tensor,
    features: Tensor,
    mean: Tensor,
    rstd: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
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
        means = triton.sums(grad, features, mean, rstd, folded, window)
        back = triton.to_features(grad, features, (mean, rstd, *means), folded, window)
    products = _unfold(triton.correlation(grad, features, mean, rstd, window), form, window)  # (out, n)
    to_bias = grad.sum((0, 1), dtype=torch.float32)  # (out,)
    wide, column = weight.float(), to_bias.unsqueeze(1)  # (out, n), (out, 1)
    # Sums of products, not matrix products: those could be in TF32.
    to_norm_weight, to_norm_bias = (wide * products).sum(0), (wide * column).sum(0)  # (n,) each
    to_weight = products * norm_weight + column * norm_bias  # (out, n)
    return back, to_norm_weight, to_norm_bias, to_weight.float(), to_bias


@fused.register_fake
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
    features: Tensor,
    mean: Tensor,
    rstd: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    window: Sequence[int],
    to_features: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out, length = weight.shape
    back = torch.empty_like(features) if to_features else features.new_empty(0)
    norm, wide, bias = (weight.new_empty(shape, dtype=torch.float32) for shape in ((length,), (out, length), (out,)))
    return back, norm, torch.empty_like(norm), wide, bias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    features, norm_weight, norm_bias, weight, bias, ctx.window, _, _ = inputs
    _, mean, rstd = output
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(features, mean, rstd, norm_weight, norm_bias, weight)


def _backward(ctx: Any, grad: Tensor, _mean: Tensor, _rstd: Tensor) -> tuple[Tensor | None, ...]:
    parameters = ctx.saved_tensors[3:]
    wanted = ctx.needs_input_grad[0]
    back, *slopes, to_bias = fused_backward(grad, *ctx.saved_tensors, ctx.window, wanted)
    to_parameters = [slope.to(ours.dtype) for slope, ours in zip(slopes, parameters, strict=True)]
    bias = None if ctx.bias_dtype is None else to_bias.to(ctx.bias_dtype)
    return back if wanted else None, *to_parameters, bias, None, None, None


fused.register_autograd(_backward, setup_context=_setup)


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
