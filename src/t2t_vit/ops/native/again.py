"""Gradients that are to be differentiated again: by torch's operations, as the compiled kernels have none."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def plain_gradients(
    form: Callable[..., Tensor], inputs: Sequence[Tensor | None], slope: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of `form(*inputs)`, with a graph; None for an input that is none or wants none.

    To be asked for in a backward pass where `torch.is_grad_enabled()`, which is what `create_graph` does.
    """
    wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(form(*inputs), wanted, slope, create_graph=True))
    return tuple(next(found) if tensor is not None and tensor.requires_grad else None for tensor in inputs)
