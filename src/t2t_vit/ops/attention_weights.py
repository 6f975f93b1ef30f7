"""The (N, N) weights that attention never stores, for those who want to look at them."""

import torch
from torch import Tensor

from t2t_vit.ops.performer_reference import EPSILON, LARGEST_EXPONENT, log_kernel


def softmax_weights(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) in float32: (B, heads, N, d) twice -> (B, heads, N, N); each row sums to 1."""
    return (queries.float() * scale @ keys.float().transpose(-2, -1)).softmax(dim=-1)


def performer_weights(queries: Tensor, keys: Tensor, features: Tensor) -> Tensor:
    """What performer attention multiplies the values by: phi(q_t) . phi(k_s) / (phi(q_t) . sum_s phi(k_s) + 1e-8).

    The same two maxima are taken out as in `performer_attention`, which is this times the values.

    Args:
        queries, keys: (B, T, D).
        features: the m frozen random features, (m, D).

    Returns:
        (B, T, T) in float32, not negative; a row sums to 1 but for the epsilon.
    """
    features = features.float()
    log_keys, log_queries = log_kernel(keys.float(), features), log_kernel(queries.float(), features)  # (B, T, m)
    key_max = log_keys.amax(dim=(1, 2), keepdim=True)  # (B, 1, 1)
    query_max = log_queries.amax(dim=2, keepdim=True)  # (B, T, 1)
    products = (log_queries - query_max).exp() @ (log_keys - key_max).exp().transpose(1, 2)  # (B, T, T)
    scale = torch.exp((-(key_max + query_max)).clamp(max=LARGEST_EXPONENT))  # (B, T, 1)
    return products / (products.sum(dim=2, keepdim=True) + EPSILON * len(features) * scale)
