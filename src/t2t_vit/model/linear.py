"""The network's linear layers, and the layers that have a choice of kernels."""

from torch import Tensor, nn

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
