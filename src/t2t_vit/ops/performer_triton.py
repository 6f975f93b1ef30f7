"""Performer attention that reads the tokens twice, for CUDA: the operations around the Triton kernels."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from t2t_vit.ops import performer_triton_kernels as kernels
from t2t_vit.ops.performer import EPSILON, LARGEST_EXPONENT, performer_attention
from t2t_vit.ops.second_derivatives import differentiable_gradients

# Up to this padded side all that a program holds fits into registers; beyond it, products run without tensor cores.
NARROW = 64
# Enough programs on each multiprocessor to hide the memory's latency.
PROGRAMS_A_PROCESSOR = 4
# What the interpreter, which has no multiprocessors, splits for.
INTERPRETED_PROCESSORS = 2


@dataclass(frozen=True)
class Launch:
    """How one set of inputs is cut into programs."""

    batch: int
    tokens: int
    splits: int
    numbers: dict[str, Any]  # sizes and settings that all kernels over tokens take

    @property
    def grid(self) -> tuple[int, int]:
        return self.batch, self.splits


def _triton(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`performer_attention` (B, T, E); S (B, m, E), z (B, m) and the largest exponent (B,) of each image's keys."""
    queries, keys, values, features = (_dense_rows(tensor) for tensor in (queries, keys, values, features))
    launch = _plan(values, features, _exact(queries, keys, values))
    context, sums, maxima = _sum_keys(keys, values, features, launch)
    answers = values.new_empty(values.shape)
    with _on_device(values):
        kernels.query_kernel[launch.grid](
            queries, features, context, sums, maxima, answers, *queries.stride()[:2], **launch.numbers
        )
    return answers, context, sums, maxima


def _triton_backward(
    grads: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    features: Tensor,
    context: Tensor,
    sums: Tensor,
    maxima: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, in their dtypes."""
    grads, queries, keys, values, features = (
        _dense_rows(tensor) for tensor in (grads, queries, keys, values, features)
    )
    launch = _plan(values, features, _exact(grads, queries, keys, values))
    grad_queries, grad_keys, grad_values = (x.new_empty(x.shape) for x in (queries, keys, values))
    context_parts, sum_parts = _parts(context, launch.splits), _parts(sums, launch.splits)
    with _on_device(values):
        kernels.query_backward_kernel[launch.grid](
            grads, queries, features, context, sums, maxima, grad_queries, context_parts, sum_parts,
            *grads.stride()[:2], *queries.stride()[:2], **launch.numbers,
        )  # fmt: skip
        grad_context, grad_sums = (_add_up(parts) for parts in (context_parts, sum_parts))
        kernels.key_backward_kernel[launch.grid](
            keys, values, features, maxima, grad_context, grad_sums, grad_keys, grad_values,
            *keys.stride()[:2], *values.stride()[:2], **launch.numbers,
        )  # fmt: skip
    return grad_queries, grad_keys, grad_values


def _sum_keys(keys: Tensor, values: Tensor, features: Tensor, launch: Launch) -> tuple[Tensor, Tensor, Tensor]:
    """S, z and the largest exponent of each image."""
    batch, count, width = values.shape[0], features.shape[0], values.shape[2]
    sums = values.new_empty(batch, count, dtype=torch.float32)
    totals = (sums.new_empty(batch, count, width), sums, sums.new_empty(batch))
    parts = tuple(_parts(total, launch.splits) for total in totals) if launch.splits > 1 else totals
    with _on_device(values):
        kernels.key_kernel[launch.grid](
            keys, values, features, *parts, *keys.stride()[:2], *values.stride()[:2], **launch.numbers
        )
        if launch.splits > 1:
            sides = {name: launch.numbers[name] for name in ("count", "width", "M", "E", "enable_fp_fusion")}
            kernels.join_kernel[(batch,)](*parts, *totals, launch.splits, **sides)
    return totals


def _exact(*inputs: Tensor) -> bool:
    """Whether a number of the inputs is one of the parts that float32 products are made of."""
    return all(tensor.dtype is torch.bfloat16 for tensor in inputs)


def _plan(values: Tensor, features: Tensor, exact: bool) -> Launch:
    batch, tokens, width = values.shape
    count, dim = features.shape
    sides = {name: max(16, triton.next_power_of_2(side)) for name, side in (("M", count), ("D", dim), ("E", width))}
    narrow = max(sides.values()) <= NARROW
    block = 32 if narrow else 16
    wanted = -(-PROGRAMS_A_PROCESSOR * _processors(values.device) // max(batch, 1))
    blocks = -(-tokens // block)
    span = block * -(-blocks // min(wanted, blocks))
    settings = {
        "epsilon": EPSILON,
        "LARGEST": LARGEST_EXPONENT,
        "BLOCK": block,
        # Float32 products on tensor cores, by parts; fewer parts miss gradients that cancel, even in bfloat16.
        "PRECISION": "bf16x6" if narrow and not interpreting() else "ieee",
        "EXACT": exact and narrow,
        # The interpreter multiplies bfloat16 wrongly, and float32 holds the same numbers.
        "PART": tl.float32 if interpreting() else tl.bfloat16,
        "num_warps": 4 if narrow else 16,
        "enable_fp_fusion": True,
    }
    sizes = {"tokens": tokens, "span": span, "count": count, "dim": dim, "width": width}
    return Launch(batch, tokens, -(-tokens // span), sizes | sides | settings)


def interpreting() -> bool:
    """Whether Triton runs its kernels in its interpreter, on CPU tensors; for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on_device(tensor: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def _dense_rows(tensor: Tensor) -> Tensor:
    """Kernels take any stride between tokens and between images, but the numbers of a token side by side."""
    rows_only = tensor.dim() == 2 and not tensor.is_contiguous()
    return tensor.contiguous() if rows_only or tensor.stride(-1) != 1 else tensor


def _parts(total: Tensor, splits: int) -> Tensor:
    return total.new_empty(total.shape[0], splits, *total.shape[1:])


def _add_up(parts: Tensor) -> Tensor:
    return parts.squeeze(1) if parts.shape[1] == 1 else parts.sum(dim=1)


def _fake_triton(
    queries: Tensor, keys: Tensor, values: Tensor, features: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, count = values.shape[0], features.shape[0]
    sums = values.new_empty(batch, count, dtype=torch.float32)
    return values.new_empty(values.shape), sums.new_empty(batch, count, values.shape[2]), sums, sums.new_empty(batch)


def _fake_triton_backward(
    grads: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    features: Tensor,
    context: Tensor,
    sums: Tensor,
    maxima: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return queries.new_empty(queries.shape), keys.new_empty(keys.shape), values.new_empty(values.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grads: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # the gradient is to be differentiated again, which the kernels can't
        return differentiable_gradients(performer_attention, ctx.saved_tensors[:4], grads)
    return (*performer_triton_backward(grads, *ctx.saved_tensors), None)


# `torch.library.custom_op` would import torch.compile's machinery at the first call: seconds at every start.
# On CPU tensors, Triton interprets.
_LIBRARY: Any = torch.library.Library("t2t_vit", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "performer_triton(Tensor queries, Tensor keys, Tensor values, Tensor features) -> (Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "performer_triton_backward(Tensor grads, Tensor queries, Tensor keys, Tensor values, Tensor features,"
    " Tensor context, Tensor sums, Tensor maxima) -> (Tensor, Tensor, Tensor)"
)
for _device in ("CUDA", "CPU"):
    _LIBRARY.impl("performer_triton", _triton, _device)
    _LIBRARY.impl("performer_triton_backward", _triton_backward, _device)
torch.library.register_fake("t2t_vit::performer_triton", _fake_triton, lib=_LIBRARY)
torch.library.register_fake("t2t_vit::performer_triton_backward", _fake_triton_backward, lib=_LIBRARY)
torch.library.register_autograd("t2t_vit::performer_triton", _backward, setup_context=_keep, lib=_LIBRARY)
performer_triton = torch.ops.t2t_vit.performer_triton.default
performer_triton_backward = torch.ops.t2t_vit.performer_triton_backward.default
