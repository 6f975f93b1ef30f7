"""Inputs for performer attention, and the law that its forms are held to."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from t2t_vit.ops.performer import draw_features, performer_attention

Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
NAMES = ("answers", "grad of queries", "grad of keys", "grad of values")


@dataclass(frozen=True)
class Case:
    """One set of inputs: `length` is the deviation of what queries and keys are made of; flat: all tokens are equal."""

    batch: int
    tokens: int
    dim: int = 64
    count: int = 32
    width: int = 64
    dtype: torch.dtype = torch.float32
    length: float = 0.5
    flat: bool = False
    device: str = "cpu"
    seed: int = 0

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, queries and values in one tensor (B, T, 2 D + E), as a layer gives them; W; the answers' gradient."""
        torch.manual_seed(self.seed)
        packed = torch.randn(self.batch, 1 if self.flat else self.tokens, 2 * self.dim + self.width)
        packed = packed.expand(-1, self.tokens, -1) * self.length
        grads = torch.randn(self.batch, self.tokens, self.width)
        features = draw_features(self.count, self.dim).to(self.device)
        return packed.to(self.device, self.dtype), features, grads.to(self.device, self.dtype)


def results(case: Case, form: Form, dtype: torch.dtype) -> list[Tensor]:
    """Answers and gradients of queries, keys and values, computed in `dtype`, in float64."""
    packed, features, grads = case.draw()
    packed = packed.to(dtype).requires_grad_()
    keys, queries, values = packed.split([case.dim, case.dim, case.width], dim=-1)
    answers = form(queries, keys, values, features.to(torch.promote_types(dtype, torch.float32)))
    answers.backward(grads.to(dtype))
    assert answers.dtype == dtype
    assert packed.grad is not None
    grad_keys, grad_queries, grad_values = packed.grad.double().split([case.dim, case.dim, case.width], dim=-1)
    return [answers.detach().double(), grad_queries, grad_keys, grad_values]


def check_law(case: Case, form: Form, draws: int = 3) -> None:
    """err(form, low) <= 2 err(plain form, low) + 1e-6 against float64, forward and every gradient.

    Errors are the largest of a few draws: in float32, of one draw, either form is ten times better by luck.
    """
    theirs, ours = [0.0] * len(NAMES), [0.0] * len(NAMES)
    for seed in range(draws):
        drawn = replace(case, seed=seed)
        exact = results(drawn, performer_attention, torch.float64)
        for worst, computed in ((theirs, performer_attention), (ours, form)):
            for i, (found, right) in enumerate(zip(results(drawn, computed, case.dtype), exact, strict=True)):
                # A maximum would pass NaN over.
                assert found.isfinite().all(), f"{NAMES[i]} of {computed} for {drawn}"
                worst[i] = max(worst[i], (found - right).abs().max().item())
    for name, reference, error in zip(NAMES, theirs, ours, strict=True):
        assert error <= 2 * reference + 1e-6, f"{name}: {error:.2g}, plain form {reference:.2g}, {case}"
