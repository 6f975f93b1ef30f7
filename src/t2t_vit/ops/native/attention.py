"""Softmax attention and its gradient by the compiled kernels."""

import ctypes
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from t2t_vit.ops.native.again import plain_gradients
from t2t_vit.ops.native.arguments import address, threads, whole
from t2t_vit.ops.native.layer import NativeLayer
from t2t_vit.ops.native.library import has_tiles, library, unavailable

LONGEST = 256  # of a head
# Of its tokens, for the gradient: four matrices of their square have to fit the second cache.
MOST_TOKENS = 512


def attends(head_dim: int, dtype: torch.dtype) -> bool:
    """Whether `native_attention` takes heads of this length here: in bfloat16, on a processor with a matrix unit."""
    fits = head_dim % 32 == 0 and head_dim <= LONGEST
    return fits and dtype is torch.bfloat16 and unavailable() is None and has_tiles()


def native_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale q k^T) v for each head; weights are rounded to bfloat16 before they meet the values, no gradient.

    Args:
        qkv: (B, N, 3 heads d) in bfloat16, contiguous: queries, keys and values, each head by head.

    Returns:
        (B, N, heads d).
    """
    batch, length, width = qkv.shape
    out = qkv.new_empty(batch, length, width // 3)
    library().attention_bf16(address(qkv), address(out), None, *_settings(qkv, heads, scale))
    return out


def native_mix(tokens: Tensor, norm: nn.LayerNorm, qkv: NativeLayer, heads: int, scale: float) -> Tensor:
    """`native_attention` of qkv(norm(tokens)), an image at a time and each thread its own; no gradient.

    Args:
        tokens: (B, N, dim) in bfloat16, contiguous; dim is a multiple of 32, as are the heads.

    Returns:
        (B, N, dim).
    """
    batch, length, dim = tokens.shape
    out = torch.empty_like(tokens)
    library().mix_bf16(
        address(tokens),
        address(norm.weight),
        address(norm.bias),
        ctypes.c_float(norm.eps),
        address(qkv.weight),
        address(qkv.bias),
        address(out),
        whole(batch, length, heads, dim // heads),
        ctypes.c_float(scale),
        threads(),
    )
    return out


def trainable_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """`native_attention` with a gradient, which computes the scores again; N is at most `MOST_TOKENS`."""
    return torch.ops.t2t_vit.native_attention.default(qkv, heads, scale)[0]


def _forward(qkv: Tensor, heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """The answer, and the sums of 2^score as logarithms (B, heads, N)."""
    batch, length, width = qkv.shape
    qkv = qkv.contiguous()
    out, log_sums = qkv.new_empty(batch, length, width // 3), qkv.new_empty(batch, heads, length, dtype=torch.float32)
    if not out.numel():
        return out, log_sums
    library().attention_bf16(address(qkv), address(out), address(log_sums), *_settings(qkv, heads, scale))
    return out, log_sums


def _gradient(slope: Tensor, qkv: Tensor, out: Tensor, log_sums: Tensor, heads: int, scale: float) -> Tensor:
    slope, qkv, gradient = slope.contiguous(), qkv.contiguous(), qkv.new_empty(qkv.shape)
    if not gradient.numel():
        return gradient
    library().attention_backward_bf16(
        address(qkv), address(out), address(log_sums), address(slope), address(gradient), *_settings(qkv, heads, scale)
    )
    return gradient


def _settings(qkv: Tensor, heads: int, scale: float) -> tuple[Any, Any, Any]:
    batch, length, width = qkv.shape
    return whole(batch, length, heads, width // 3 // heads), ctypes.c_float(scale), threads()


def _fake_forward(qkv: Tensor, heads: int, scale: float) -> tuple[Tensor, Tensor]:
    batch, length, width = qkv.shape
    return qkv.new_empty(batch, length, width // 3), qkv.new_empty(batch, heads, length, dtype=torch.float32)


def _fake_gradient(slope: Tensor, qkv: Tensor, out: Tensor, log_sums: Tensor, heads: int, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, ctx.heads, ctx.scale = inputs
    ctx.save_for_backward(qkv, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, slope: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        return (*plain_gradients(partial(_plain, ctx.heads, ctx.scale), ctx.saved_tensors[:1], slope), None, None)
    gradient = torch.ops.t2t_vit.native_attention_backward.default(slope, *ctx.saved_tensors, ctx.heads, ctx.scale)
    return gradient, None, None


def _plain(heads: int, scale: float, qkv: Tensor) -> Tensor:
    queries, keys, values = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, d) each
    mixed = (queries * scale @ keys.transpose(-2, -1)).softmax(dim=-1) @ values
    return mixed.transpose(1, 2).flatten(2)  # (B, N, heads d)


_LIBRARY: Any = torch.library.Library("t2t_vit", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("native_attention(Tensor qkv, int heads, float scale) -> (Tensor, Tensor)")
_LIBRARY.define(
    "native_attention_backward(Tensor slope, Tensor qkv, Tensor out, Tensor log_sums, int heads, float scale) -> Tensor"
)
_LIBRARY.impl("native_attention", _forward, "CPU")
_LIBRARY.impl("native_attention_backward", _gradient, "CPU")
torch.library.register_fake("t2t_vit::native_attention", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("t2t_vit::native_attention_backward", _fake_gradient, lib=_LIBRARY)
torch.library.register_autograd("t2t_vit::native_attention", _backward, setup_context=_keep, lib=_LIBRARY)
