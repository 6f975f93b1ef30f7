"""Performer attention in two passes over the tokens, for a CPU: half the memory traffic, and nothing kept of its size.

Pass one makes of keys and values what queries need of an image, pass two answers the queries:

    S = sum_s phi(k_s)^T v_s,  z = sum_s phi(k_s);  y_t = p_t S  with  p_t = phi(q_t) / (phi(q_t) . z + epsilon)

Gradients, with g_t = S dy_t and D_t = p_t . g_t, so that not even y is kept:

    dS = sum_t p_t^T dy_t,  dz = -sum_t D_t p_t;  d log phi(q_t) = p_t * (g_t - D_t z)
    dv_s = phi(k_s) dS,  d log phi(k_s) = phi(k_s) * (dS v_s + dz);  du = (d log phi) W - (sum of d log phi) u
"""

from typing import Any

import torch
from torch import Tensor

from t2t_vit.ops.performer_reference import EPSILON, LARGEST_EXPONENT, without_autocast

# What the backward pass needs beside the inputs: S, z, |k|^2 / 2, the maximum, and 1 / normaliser of each query.
Kept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def performer_attention_in_place(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    """`performer_attention` for inference, as plain operations without a record for gradients."""
    return _attend(queries, keys, values, features)[0].to(values.dtype)


def _passes(
    queries: Tensor, keys: Tensor, values: Tensor, features: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`performer_attention` (B, T, E), and what its backward pass keeps. The features get no gradient."""
    with without_autocast(values.device):
        answers, kept = _attend(queries, keys, values, features)
    return answers.to(values.dtype), *kept


def _passes_backward(
    grads: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    features: Tensor,
    context: Tensor,
    sums: Tensor,
    half_squares: Tensor,
    maximum: Tensor,
    inverses: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, in their dtypes."""
    precise = context.dtype
    features, grads, exact_values = features.to(precise), grads.to(precise), values.to(precise)
    exact_queries, exact_keys = queries.to(precise), keys.to(precise)
    with without_autocast(values.device):
        shares = _relative_features(exact_queries, features)[0].mul_(inverses)  # p: (B, T, m)
        logs = grads @ context.transpose(1, 2)  # g: (B, T, m)
        means = (shares * logs).sum(dim=2, keepdim=True)  # D: (B, T, 1)
        turned = shares.transpose(1, 2)  # (B, m, T)
        grad_context, grad_sums = turned @ grads, (turned @ means).neg_()  # dS: (B, m, E), dz: (B, m, 1)
        logs.sub_(means * sums.unsqueeze(1)).mul_(shares)
        grad_queries = _through_log_kernel(logs, exact_queries, features)

        phi = (exact_keys @ features.t()).sub_(half_squares).sub_(maximum).exp_()  # (B, T, m)
        grad_values = phi @ grad_context  # (B, T, E)
        logs = (exact_values @ grad_context.transpose(1, 2)).add_(grad_sums.transpose(1, 2)).mul_(phi)
        grad_keys = _through_log_kernel(logs, exact_keys, features)
    return grad_queries.to(queries.dtype), grad_keys.to(keys.dtype), grad_values.to(values.dtype)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> tuple[Tensor, Kept]:
    precise = torch.promote_types(values.dtype, torch.float32)
    features, keys, queries = features.to(precise), keys.to(precise), queries.to(precise)
    half_squares = _half_squares(keys)  # (B, T, 1)
    phi = (keys @ features.t()).sub_(half_squares)  # (B, T, m)
    maximum = phi.amax(dim=(1, 2), keepdim=True)  # (B, 1, 1)
    phi.sub_(maximum).exp_()
    context, sums = phi.transpose(1, 2) @ values.to(precise), phi.sum(dim=1)  # (B, m, E), (B, m)

    shares, query_max = _relative_features(queries, features)  # (B, T, m), (B, T, 1)
    exponents = _half_squares(queries).sub_(query_max).sub_(maximum)
    scale = exponents.clamp_(max=LARGEST_EXPONENT).exp_()  # (B, T, 1)
    inverses = (shares @ sums.unsqueeze(2)).add_(scale, alpha=EPSILON * features.shape[0]).reciprocal_()
    # The normaliser divides the shares (B, T, m) in place of the answers (B, T, E), which are twice as long.
    answers = shares.mul_(inverses) @ context  # (B, T, E)
    return answers, (context, sums, half_squares, maximum, inverses)


def _relative_features(queries: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """exp(W q - max) for each query (B, T, m), and the maximum (B, T, 1). |q|^2 is the same for all features."""
    logs = queries @ features.t()
    largest = logs.amax(dim=2, keepdim=True)
    return logs.sub_(largest).exp_(), largest


def _half_squares(vectors: Tensor) -> Tensor:
    # A norm would take the root first; as exponents go, that is felt.
    return vectors.square().sum(dim=-1, keepdim=True).mul_(0.5)


def _through_log_kernel(grads: Tensor, vectors: Tensor, features: Tensor) -> Tensor:
    """The gradient (B, T, D) of the vectors whose `log_kernel` has the gradient `grads` (B, T, m)."""
    return (grads @ features).addcmul_(grads.sum(dim=2, keepdim=True), vectors, value=-1)


def _fake_passes(
    queries: Tensor, keys: Tensor, values: Tensor, features: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, tokens, width = values.shape
    count, precise = features.shape[0], torch.promote_types(values.dtype, torch.float32)
    rows = [values.new_empty(batch, tokens, 1, dtype=precise) for _ in range(2)]
    context = values.new_empty(batch, count, width, dtype=precise)
    sums, maximum = values.new_empty(batch, count, dtype=precise), values.new_empty(batch, 1, 1, dtype=precise)
    return values.new_empty(batch, tokens, width), context, sums, rows[0], maximum, rows[1]


def _fake_passes_backward(
    grads: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    features: Tensor,
    context: Tensor,
    sums: Tensor,
    half_squares: Tensor,
    maximum: Tensor,
    inverses: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return queries.new_empty(queries.shape), keys.new_empty(keys.shape), values.new_empty(values.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grads: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return (*performer_passes_backward(grads, *ctx.saved_tensors), None)


# `torch.library.custom_op` would import torch.compile's machinery at the first call: seconds at every start.
_LIBRARY: Any = torch.library.Library("t2t_vit", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "performer_passes(Tensor queries, Tensor keys, Tensor values, Tensor features)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "performer_passes_backward(Tensor grads, Tensor queries, Tensor keys, Tensor values, Tensor features,"
    " Tensor context, Tensor sums, Tensor half_squares, Tensor maximum, Tensor inverses) -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.impl("performer_passes", _passes, "CPU")
_LIBRARY.impl("performer_passes_backward", _passes_backward, "CPU")
torch.library.register_fake("t2t_vit::performer_passes", _fake_passes, lib=_LIBRARY)
torch.library.register_fake("t2t_vit::performer_passes_backward", _fake_passes_backward, lib=_LIBRARY)
torch.library.register_autograd("t2t_vit::performer_passes", _backward, setup_context=_keep, lib=_LIBRARY)
performer_passes = torch.ops.t2t_vit.performer_passes.default
performer_passes_backward = torch.ops.t2t_vit.performer_passes_backward.default
