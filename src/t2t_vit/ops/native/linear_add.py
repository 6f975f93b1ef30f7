"""An activation, a linear layer and a residual by the compiled kernels, with a gradient."""

import ctypes
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops.native.again import plain_gradients
from t2t_vit.ops.native.arguments import address, check, threads, whole
from t2t_vit.ops.native.library import library
from t2t_vit.ops.native.tail import ACTIVATIONS, SIDE

Gradients = tuple[Tensor, Tensor, Tensor]


def trainable_linear_add(
    inputs: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, shares: Tensor | None, activation: str
) -> Tensor:
    """residual + share (W activation(x) + b), the product in bfloat16 and the sum in float32.

    Args:
        inputs: (B, N, in) in bfloat16.
        residual: (B, N, out) in float32, as all that follows.
        weight, bias: (out, in) and (out,); lengths are multiples of `SIDE`.
        shares: (B,), constants; None: 1.
        activation: one of `ACTIVATIONS`.

    Returns:
        (B, N, out) in float32.
    """
    return torch.ops.t2t_vit.native_linear_add.default(inputs, residual, weight, bias, shares, activation)


def _forward(
    inputs: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, shares: Tensor | None, activation: str
) -> Tensor:
    out = _fake_forward(inputs, residual, weight, bias, shares, activation)
    if not out.numel():
        return out
    inputs, residual, weight, bias = (part.contiguous() for part in (inputs, residual, weight, bias))
    part_of = None if shares is None else shares.contiguous()
    library().linear_add(
        address(inputs),
        address(residual),
        address(weight),
        address(bias),
        address(part_of),
        address(out),
        _sizes(inputs, weight, activation),
        threads(),
    )
    return out


def _gradient(slope: Tensor, inputs: Tensor, weight: Tensor, shares: Tensor | None, activation: str) -> Gradients:
    """Of inputs, weight and bias."""
    gradients = _fake_gradient(slope, inputs, weight, shares, activation)
    if not slope.numel():
        return tuple(gradient.zero_() for gradient in gradients)  # type: ignore[return-value]
    slope, inputs, weight = slope.contiguous(), inputs.contiguous(), weight.contiguous()
    part_of = None if shares is None else shares.contiguous()
    library().linear_add_backward(
        address(slope),
        address(inputs),
        address(weight),
        address(part_of),
        *map(address, gradients),
        _sizes(inputs, weight, activation),
        threads(),
    )
    return gradients


def _sizes(inputs: Tensor, weight: Tensor, activation: str) -> ctypes.Array[ctypes.c_int64]:
    out, features = weight.shape
    return whole(inputs.numel() // features, features, out, inputs.shape[1], ACTIVATIONS.index(activation))


def _fake_forward(
    inputs: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, shares: Tensor | None, activation: str
) -> Tensor:
    (batch, length, features), (out, wide) = inputs.shape, weight.shape
    numbers = [part for part in (residual, weight, bias, shares) if part is not None]
    fits = inputs.dtype is torch.bfloat16 and all(part.dtype is torch.float32 for part in numbers)
    fits = fits and features % SIDE == 0 == out % SIDE and residual.shape == (batch, length, out) and wide == features
    check(fits and bias.shape == (out,) and (shares is None or shares.shape == (batch,)), "native_linear_add")
    return residual.new_empty(residual.shape)


def _fake_gradient(slope: Tensor, inputs: Tensor, weight: Tensor, shares: Tensor | None, activation: str) -> Gradients:
    return inputs.new_empty(inputs.shape), weight.new_empty(weight.shape), weight.new_empty(len(weight))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    given, _, weight, bias, shares, ctx.activation = inputs
    ctx.save_for_backward(given, weight, bias, shares)


def _backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    given, weights, biases, shares = ctx.saved_tensors
    if torch.is_grad_enabled():
        form = partial(_plain, shares, ctx.activation)
        inputs, weight, bias = plain_gradients(form, (given, weights, biases), slope)
        return inputs, slope, weight, bias, None, None
    operation = torch.ops.t2t_vit.native_linear_add_backward.default
    inputs, weight, bias = operation(slope, given, weights, shares, ctx.activation)
    return inputs, slope, weight, bias, None, None


def _plain(shares: Tensor | None, activation: str, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What the residual is added to."""
    if activation != "none":
        inputs = F.gelu(inputs, approximate="tanh" if activation == "gelu_tanh" else "none")
    answer = F.linear(inputs, weight.bfloat16(), bias.bfloat16()).float()
    return answer if shares is None else answer * shares.view(-1, 1, 1)


_LIBRARY: Any = torch.library.Library("t2t_vit", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "native_linear_add(Tensor inputs, Tensor residual, Tensor weight, Tensor bias, Tensor? shares, str activation)"
    " -> Tensor"
)
_LIBRARY.define(
    "native_linear_add_backward(Tensor slope, Tensor inputs, Tensor weight, Tensor? shares, str activation)"
    " -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.impl("native_linear_add", _forward, "CPU")
_LIBRARY.impl("native_linear_add_backward", _gradient, "CPU")
torch.library.register_fake("t2t_vit::native_linear_add", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("t2t_vit::native_linear_add_backward", _fake_gradient, lib=_LIBRARY)
torch.library.register_autograd("t2t_vit::native_linear_add", _backward, setup_context=_keep, lib=_LIBRARY)
