"""The network's linear layers, and the layers that have a choice of kernels."""

from torch import Tensor, nn
from torch.nn.modules import module as every

from t2t_vit.ops.linear import linear


class Choosing(nn.Module):
    """A layer that is computed as `kernels` says: "auto" by the fastest way here, every other name by torch's own."""

    kernels: str = "auto"


class Linear(nn.Linear, Choosing):
    """W x + b on (..., in); see `ops.linear`."""

    def forward(self, inputs: Tensor) -> Tensor:  # (..., in)
        return linear(inputs, self.weight, self.bias, self.kernels)  # (..., out)


def choose_kernels(network: nn.Module, kernels: str) -> None:
    """Tell all layers of a network how to be computed."""
    for module in network.modules():
        if isinstance(module, Choosing):
            module.kernels = kernels


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is one of these and nothing else: no subclass, patch, hook or tensor subclass."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    of_all = (every._global_forward_hooks, every._global_forward_pre_hooks)
    # As others see them: torch.fx puts something else in their place while it traces.
    parameters = [getattr(layer, name) for name, parameter in layer._parameters.items() if parameter is not None]
    return (
        type(layer) in kinds
        and "forward" not in vars(layer)
        and not any(hooks)
        and not any(of_all)
        and all(type(parameter) is nn.Parameter for parameter in parameters)
    )
