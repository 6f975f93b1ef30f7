"""Performer attention: softmax attention through positive random features, linear in the number of tokens."""

import math

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.ops.kernels import Implementation, available, choose, off_cpu, off_triton, on_cuda
from t2t_vit.ops.performer_passes import performer_passes
from t2t_vit.ops.performer_reference import performer_attention_reference

# Of Triton's kernels: D, E and m.
WIDEST = 128


def performer_attention(
    queries: Tensor, keys: Tensor, values: Tensor, features: Tensor, kernels: str = "auto"
) -> Tensor:
    """Attention with phi(u) = exp(W u - |u|^2 / 2) / sqrt(m) in place of the softmax kernel.

        y_t = phi(q_t) . sum_s phi(k_s) v_s^T / (phi(q_t) . sum_s phi(k_s) + 1e-8)

    The largest exponents are taken out before exp, per token for the queries and per image for the keys, and the
    epsilon is scaled by the same factors: the value is the formula's, and nothing can overflow. Always computed in at
    least float32, under autocast too, since half precision rounds the epsilon to zero.

    Args:
        queries, keys: (B, T, D).
        values: (B, T, E).
        features: W, the m frozen random features, (m, D). Only the reference has a gradient for them.
        kernels: `reference`, plain PyTorch; `cpu` and `triton`, two passes over the tokens and a backward pass that
            computes anew what it needs of them; `auto`, the fastest of them that can run here.

    Returns:
        (B, T, E) in the values' dtype.

    Raises:
        UserError: the kernels that were asked for by name cannot run on these tensors.

    Source: arXiv 2009.14794 for the kernel, arXiv 2101.11986 for its use in the T2T module.
    """
    chosen = choose(kernels, ROWS, values)
    if chosen.name != "reference" and features.requires_grad and torch.is_grad_enabled():
        if kernels != "auto":
            raise UserError(f"kernels '{kernels}' take the features as frozen, but these require a gradient")
        return performer_attention_reference(queries, keys, values, features)
    return chosen.run(queries, keys, values, features)


def draw_features(count: int, dim: int) -> Tensor:
    """The frozen W of (count, dim): random orthonormal rows times sqrt(count), as the authors draw it.

    The length sqrt(count) in place of sqrt(dim) makes it a biased estimate of the softmax; released weights rely on it.
    """
    return torch.nn.init.orthogonal_(torch.empty(count, dim)) * math.sqrt(count)


def _by_passes(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    return performer_passes(queries, keys, values, features)[0]


def _by_triton(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    # Triton is not installed everywhere, and slow to import.
    from t2t_vit.ops.performer_triton import performer_triton

    return performer_triton(queries, keys, values, features)[0]


def _eager(inputs: Tensor) -> bool:
    """torch.compile joins the reference's operations itself, and cannot look into ours."""
    return not torch.compiler.is_compiling()


def _off_triton(inputs: Tensor) -> str | None:
    reason = off_triton(inputs)
    if reason is None and inputs.shape[-1] > WIDEST:
        reason = f"its performer attention takes tokens of up to {WIDEST} numbers, not {inputs.shape[-1]}"
    return reason


ROWS = (
    Implementation("triton", _off_triton, _by_triton, on_cuda),
    Implementation("cpu", off_cpu, _by_passes, _eager),
    Implementation("reference", available, performer_attention_reference),
)
