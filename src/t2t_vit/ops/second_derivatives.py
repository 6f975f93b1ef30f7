"""Gradients that are to be differentiated again, of operations whose own gradient is made by kernels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def differentiable_gradients(
    form: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of `form(*inputs)` for that of its answer, with a graph; None for an input that wants none.

    To be asked for in a backward pass where `torch.is_grad_enabled()`, which is what `create_graph` makes it.
    """
    wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(form(*inputs), wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(found) if tensor is not None and tensor.requires_grad else None for tensor in inputs)
