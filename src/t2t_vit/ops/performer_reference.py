"""Performer attention in plain PyTorch: what every other form of it is measured against, and what files hold."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Added to the denominator by the authors. It is live: where queries and keys are long, it sends the output to zero.
EPSILON = 1e-8
# exp(80) stays finite in float32, and beyond it the output is zero to the last bit anyway.
LARGEST_EXPONENT = 80.0


def performer_attention_reference(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    """`performer_attention` by operations that every PyTorch, exporter and device has."""
    with without_autocast(values.device):
        return _attend(queries, keys, values, features).to(values.dtype)


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
