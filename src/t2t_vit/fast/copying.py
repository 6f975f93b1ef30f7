"""A copy of a network that was found to be exactly ours: what its modules are and are set to, with other tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def copied(module: nn.Module, tensor_of: Callable[[Tensor], Tensor]) -> Any:
    """The same tree of modules with `tensor_of(tensor)` for each of its tensors.

    A module that stands at several places becomes several, which may then be replaced one by one. `copy.deepcopy` would
    keep them one, copy gradients, and fail on what users hang on a module: a trainer with a lock, a tensor of a graph.
    """
    twin: Any = module.__new__(type(module))
    nn.Module.__init__(twin)
    for name, value in vars(module).items():
        # A compiled call would be the original's; what may be written into has to be the copy's own.
        if name not in vars(twin) and not isinstance(value, Tensor) and not callable(value):
            vars(twin)[name] = value.copy() if isinstance(value, dict | list) else value
    twin.training = module.training
    twin._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    for name, parameter in module._parameters.items():
        made = None if parameter is None else nn.Parameter(tensor_of(parameter.detach()), requires_grad=False)
        twin._parameters[name] = made
    for name, buffer in module._buffers.items():
        twin._buffers[name] = None if buffer is None else tensor_of(buffer.detach())
    for name, child in module._modules.items():
        twin._modules[name] = None if child is None else copied(child, tensor_of)
    return twin


def shape_alone(tensor: Tensor) -> Tensor:
    """A tensor of the same shape in float32, without memory."""
    return torch.empty(tensor.shape, device="meta", dtype=torch.float32)
