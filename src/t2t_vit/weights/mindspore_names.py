"""The same tensors in MindSpore's names and shapes, and back.

MindSpore calls a norm's weight and bias gamma and beta, and gives the kernel of a one-dimensional convolution a height
of 1. All other names and shapes are the same.
"""

from collections.abc import Mapping

from torch import Tensor

_TO_TORCH = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def is_mindspore(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are MindSpore's names, whatever the file that they lie in."""
    return any(name.endswith(".gamma") for name in tensors)


def to_torch(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of MindSpore's names under the names of PyTorch."""
    renamed = {}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        is_narrow = last == "weight" and tensor.ndim == 4 and tensor.shape[2] == 1
        new = f"{module}.{_TO_TORCH[last]}" if module and last in _TO_TORCH else name
        renamed[new] = tensor.squeeze(2) if is_narrow else tensor
    return renamed


def to_mindspore(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of PyTorch's names under the names of MindSpore; a norm is told by its weight's single dimension."""
    norms = {
        name.rpartition(".")[0] for name, tensor in tensors.items() if name.endswith(".weight") and tensor.ndim == 1
    }
    renamed = {}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        back = {torch_name: name for name, torch_name in _TO_TORCH.items()} if module in norms else {}
        is_narrow = last == "weight" and tensor.ndim == 3
        renamed[f"{module}.{back[last]}" if last in back else name] = tensor.unsqueeze(2) if is_narrow else tensor
    return renamed
