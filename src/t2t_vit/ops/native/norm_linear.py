"""LayerNorm and a linear layer by the compiled kernels, with a gradient."""

import ctypes
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops.native.again import plain_gradients
from t2t_vit.ops.native.arguments import address, check, threads, whole
from t2t_vit.ops.native.library import library
from t2t_vit.ops.native.tail import SIDE

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def trainable_norm_linear(
    tokens: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """W LayerNorm(x) + b, the product in bfloat16; all given in float32, and so are all gradients.

    Args:
        tokens: (..., in).
        norm_weight, norm_bias: (in,).
        weight, bias: (out, in) and (out,); lengths are multiples of `SIDE`.

    Returns:
        (..., out) in bfloat16.
    """
    return torch.ops.t2t_vit.native_norm_linear.default(tokens, norm_weight, norm_bias, eps, weight, bias)[0]


def _forward(
    tokens: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The answer, and of each token the mean and one over the deviation (..., 2)."""
    out, moments = _fake_forward(tokens, norm_weight, norm_bias, eps, weight, bias)
    if not out.numel():
        return out, moments
    tokens, norm_weight, norm_bias = tokens.contiguous(), norm_weight.contiguous(), norm_bias.contiguous()
    weight, added = weight.contiguous(), None if bias is None else bias.contiguous()
    library().norm_linear(
        address(tokens),
        address(norm_weight),
        address(norm_bias),
        address(weight),
        address(added),
        address(moments),
        address(out),
        _sizes(tokens, weight),
        ctypes.c_float(eps),
        threads(),
    )
    return out, moments


def _gradient(
    slope: Tensor,
    moments: Tensor,
    tokens: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Gradients:
    """Of tokens, norm weight, norm bias, weight and bias; the last is empty where there is no bias."""
    gradients = _fake_gradient(slope, moments, tokens, norm_weight, norm_bias, weight, bias)
    if not slope.numel():
        return tuple(gradient.zero_() for gradient in gradients)  # type: ignore[return-value]
    slope, tokens, weight = slope.contiguous(), tokens.contiguous(), weight.contiguous()
    norm_weight, norm_bias = norm_weight.contiguous(), norm_bias.contiguous()
    library().norm_linear_backward(
        address(slope),
        address(tokens),
        address(moments),
        address(norm_weight),
        address(norm_bias),
        address(weight),
        (ctypes.c_void_p * len(gradients))(*(gradient.data_ptr() for gradient in gradients)),
        _sizes(tokens, weight),
        ctypes.c_int(bias is not None),
        threads(),
    )
    return gradients


def _sizes(tokens: Tensor, weight: Tensor) -> ctypes.Array[ctypes.c_int64]:
    out, features = weight.shape
    return whole(tokens.numel() // features, features, out)


def _fake_forward(
    tokens: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    *rows, features = tokens.shape
    parameters = [part for part in (tokens, norm_weight, norm_bias, weight, bias) if part is not None]
    fits = features % SIDE == 0 == len(weight) % SIDE and all(part.dtype is torch.float32 for part in parameters)
    fits = fits and norm_weight.shape == norm_bias.shape == (features,) and weight.shape[1] == features
    check(fits and (bias is None or bias.shape == (len(weight),)), "native_norm_linear")
    return tokens.new_empty(*rows, len(weight), dtype=torch.bfloat16), tokens.new_empty(*rows, 2)


def _fake_gradient(
    slope: Tensor,
    moments: Tensor,
    tokens: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Gradients:
    of_bias = weight.new_empty(0 if bias is None else len(weight))
    parameters = (part.new_empty(part.shape) for part in (norm_weight, norm_bias, weight))
    of_norm_weight, of_norm_bias, of_weight = parameters
    return tokens.new_empty(tokens.shape), of_norm_weight, of_norm_bias, of_weight, of_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tokens, norm_weight, norm_bias, ctx.eps, weight, bias = inputs
    ctx.save_for_backward(output[1], tokens, norm_weight, norm_bias, weight, bias)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, slope: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    if torch.is_grad_enabled():
        tokens, norm_weight, norm_bias, weight, bias = plain_gradients(partial(_plain, ctx.eps), saved[1:], slope)
        return tokens, norm_weight, norm_bias, None, weight, bias
    found = torch.ops.t2t_vit.native_norm_linear_backward.default(slope, *saved)
    tokens, norm_weight, norm_bias, weight, bias = found
    return tokens, norm_weight, norm_bias, None, weight, None if saved[-1] is None else bias


def _plain(
    eps: float, tokens: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    normed = F.layer_norm(tokens, norm_weight.shape, norm_weight, norm_bias, eps).bfloat16()
    return F.linear(normed, weight.bfloat16(), None if bias is None else bias.bfloat16())


_LIBRARY: Any = torch.library.Library("t2t_vit", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "native_norm_linear(Tensor tokens, Tensor norm_weight, Tensor norm_bias, float eps, Tensor weight, Tensor? bias)"
    " -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "native_norm_linear_backward(Tensor slope, Tensor moments, Tensor tokens, Tensor norm_weight, Tensor norm_bias,"
    " Tensor weight, Tensor? bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.impl("native_norm_linear", _forward, "CPU")
_LIBRARY.impl("native_norm_linear_backward", _gradient, "CPU")
torch.library.register_fake("t2t_vit::native_norm_linear", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("t2t_vit::native_norm_linear_backward", _fake_gradient, lib=_LIBRARY)
torch.library.register_autograd("t2t_vit::native_norm_linear", _backward, setup_context=_keep, lib=_LIBRARY)
