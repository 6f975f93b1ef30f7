"""Performer attention: softmax attention through positive random features, linear in the number of tokens."""

import math
from contextlib import AbstractContextManager, nullcontext

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
        features: W, the m random features, (m, D).

    Returns:
        (B, T, E) in the values' dtype.

    Source: arXiv 2009.14794 for the kernel, arXiv 2101.11986 for its use in the T2T module.
    """
    with without_autocast(values.device):
        precise = torch.promote_types(values.dtype, torch.float32)
        mixed = _attend(queries.to(precise), keys.to(precise), values.to(precise), features.to(precise))
        return mixed.to(values.dtype)


def performer_weights(queries: Tensor, keys: Tensor, features: Tensor) -> Tensor:
    """What performer attention multiplies the values by: phi(q_t) . phi(k_s) / (phi(q_t) . sum_s phi(k_s) + 1e-8).

    The same two maxima are taken out as in `performer_attention`, which is this times the values.

    Args:
        queries, keys: (B, T, D).
        features: the m frozen random features, (m, D).

    Returns:
        (B, T, T) in float32, not negative; a row sums to 1 except for the epsilon.
    """
    features = features.float()
    log_keys, log_queries = log_kernel(keys.float(), features), log_kernel(queries.float(), features)  # (B, T, m)
    key_max = log_keys.amax(dim=(1, 2), keepdim=True)  # (B, 1, 1)
    query_max = log_queries.amax(dim=2, keepdim=True)  # (B, T, 1)
    products = (log_queries - query_max).exp() @ (log_keys - key_max).exp().transpose(1, 2)  # (B, T, T)
    scale = torch.exp((-(key_max + query_max)).clamp(max=LARGEST_EXPONENT))  # (B, T, 1)
    return products / (products.sum(dim=2, keepdim=True) + EPSILON * features.shape[0] * scale)


def draw_features(count: int, dim: int) -> Tensor:
    """The frozen W of (count, dim): random orthonormal rows times sqrt(count), as the authors draw it.

    The length sqrt(count) in place of sqrt(dim) makes it a biased estimate of the softmax; released weights rely on it.
    """
    return torch.nn.init.orthogonal_(torch.empty(count, dim)) * math.sqrt(count)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Half precision would round the epsilon to zero."""
    # The meta device knows no autocast.
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def log_kernel(vectors: Tensor, features: Tensor) -> Tensor:
    """log(sqrt(m) phi(u)) = W u - |u|^2 / 2."""
    return vectors @ features.t() - vectors.square().sum(dim=-1, keepdim=True) / 2


def _attend(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    log_keys, log_queries = log_kernel(keys, features), log_kernel(queries, features)  # (B, T, m) each
    # The result does not depend on the two maxima, so no gradient has to pass through them.
    key_max = log_keys.detach().amax(dim=(1, 2), keepdim=True)  # (B, 1, 1)
    query_max = log_queries.detach().amax(dim=2, keepdim=True)  # (B, T, 1)
    key_features = (log_keys - key_max).exp()  # (B, T, m)
    query_features = (log_queries - query_max).exp()  # (B, T, m)

    context = key_features.transpose(1, 2) @ values  # (B, m, E)
    normaliser = query_features @ key_features.sum(dim=1).unsqueeze(2)  # (B, T, 1)
    scale = (-(key_max + query_max)).clamp(max=LARGEST_EXPONENT).exp()  # (B, T, 1)
    return query_features @ context / (normaliser + EPSILON * features.shape[0] * scale)
