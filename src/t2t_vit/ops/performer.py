"""Performer attention: softmax attention through positive random features, linear in the number of tokens."""

import math

import torch
from torch import Tensor

# Added to the denominator by the authors. It is live: where queries and keys are long, it sends the output to zero.
EPSILON = 1e-8
# exp(80) stays finite in float32, and beyond it the output is zero to the last bit anyway.
LARGEST_EXPONENT = 80.0


def performer_attention(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    """Attention with phi(u) = exp(W u - |u|^2 / 2) / sqrt(m) in place of the softmax kernel.

        y_t = phi(q_t) . sum_s phi(k_s) v_s^T / (phi(q_t) . sum_s phi(k_s) + 1e-8)

    The largest exponents are taken out before exp, per token for the queries and per image for the keys, and the
    epsilon is scaled by the same factors: the value is the formula's, and nothing can overflow. Always computed in at
    least float32, under autocast too, since half precision rounds the epsilon to zero.

    Args:
        queries, keys: (B, T, D).
        values: (B, T, E).
        features: W, the m frozen random features, (m, D).

    Returns:
        (B, T, E) in the values' dtype.

    Source: arXiv 2009.14794 for the kernel, arXiv 2101.11986 for its use in the T2T module.
    """
    device_type = values.device.type
    # The meta device knows no autocast.
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            return _attend(queries, keys, values, features).to(values.dtype)
    return _attend(queries, keys, values, features).to(values.dtype)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    precise = torch.promote_types(values.dtype, torch.float32)
    features, values = features.to(precise), values.to(precise)
    log_keys = log_kernel(keys.to(precise), features)  # (B, T, m)
    log_queries = log_kernel(queries.to(precise), features)  # (B, T, m)
    # The result does not depend on the two maxima, so no gradient has to pass through them.
    key_max = log_keys.detach().amax(dim=(1, 2), keepdim=True)  # (B, 1, 1)
    query_max = log_queries.detach().amax(dim=2, keepdim=True)  # (B, T, 1)
    key_features = (log_keys - key_max).exp()  # (B, T, m)
    query_features = (log_queries - query_max).exp()  # (B, T, m)

    context = key_features.transpose(1, 2) @ values  # (B, m, E)
    normaliser = query_features @ key_features.sum(dim=1).unsqueeze(2)  # (B, T, 1)
    scale = (-(key_max + query_max)).clamp(max=LARGEST_EXPONENT).exp()  # (B, T, 1)
    return query_features @ context / (normaliser + EPSILON * len(features) * scale)


def log_kernel(vectors: Tensor, features: Tensor) -> Tensor:
    """log(sqrt(m) phi(u)) = W u - |u|^2 / 2."""
    return vectors @ features.t() - vectors.square().sum(dim=-1, keepdim=True) / 2


def draw_features(count: int, dim: int) -> Tensor:
    """The frozen W of (count, dim): random orthonormal rows times sqrt(count), as the authors draw it.

    The length sqrt(count) in place of sqrt(dim) makes it a biased estimate of the softmax; released weights rely on it.
    """
    return torch.nn.init.orthogonal_(torch.empty(count, dim)) * math.sqrt(count)


def performer_attention_in_place(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    """`performer_attention` for inference: the same formula with fewer passes over memory; no gradient.

    The normaliser divides the queries' features (B, T, m) in place of the output (B, T, E), which is twice as long.
    """
    features = features.float()
    key_features, query_features = _log_kernel_of(keys, features), _log_kernel_of(queries, features)  # (B, T, m)
    key_max = key_features.amax(dim=(1, 2), keepdim=True)  # (B, 1, 1)
    query_max = query_features.amax(dim=2, keepdim=True)  # (B, T, 1)
    key_features.sub_(key_max).exp_()
    query_features.sub_(query_max).exp_()
    scale = (-(key_max + query_max)).clamp_(max=LARGEST_EXPONENT).exp_()  # (B, T, 1)
    normaliser = query_features @ key_features.sum(dim=1).unsqueeze(2)  # (B, T, 1)
    query_features.mul_(normaliser.add_(scale, alpha=EPSILON * features.shape[0]).reciprocal_())
    context = key_features.transpose(1, 2) @ values.float()  # (B, m, E)
    return (query_features @ context).to(values.dtype)  # (B, T, E)


def _log_kernel_of(vectors: Tensor, features: Tensor) -> Tensor:
    vectors = vectors.float().contiguous()  # (B, T, D)
    half_squares = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).square_().mul_(0.5)  # (B, T, 1)
    return (vectors @ features.t()).sub_(half_squares)  # (B, T, m)
