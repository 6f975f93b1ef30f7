"""A network made ready for inference on a CPU: the same numbers to rounding, in a fraction of the time.

`T2TViT` itself asks `packed_for` where no gradient is wanted, so that nobody has to know of this.
"""

import copy
from collections.abc import Iterable
from itertools import chain
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from t2t_vit.model.packed_layers import swap
from t2t_vit.model.packed_tokens import PackedTokens
from t2t_vit.ops.kernels import cannot_run, watched
from t2t_vit.ops.packed_linear import can_pack
from torch import Tensor, nn

from t2t_vit.model.tokens_to_token import TokensToToken
from t2t_vit.ops import native

__all__ = ["PackedNetwork", "pack", "packed_for"]

SAMPLE = 65_537  # of so many numbers of a tensor one is looked at, for who writes past torch's count of changes

_packed: "WeakKeyDictionary[nn.Module, tuple[Any, dict[torch.dtype, PackedNetwork]]]" = WeakKeyDictionary()
_lock = Lock()


class PackedNetwork(nn.Module):
    """float (B, in_chans, height, width) of any float dtype -> logits (B, num_classes) in the weights' dtype."""

    network: Any

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        # Windows are normalised from the pixels as they come; convolutions multiply them.
        self.takes = torch.float32 if isinstance(network.tokens_to_token, PackedTokens) else dtype

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:  # (B, in_chans, height, width)
        # What it is made of was cast when it was packed; autocast would only look at each operation again.
        with torch.autocast("cpu", enabled=False):
            return self.network.forward_head(self.network.forward_features(images.to(self.takes)))  # (B, num_classes)


def pack(model: nn.Module, dtype: torch.dtype = torch.float32, *, only_native: bool = False) -> PackedNetwork:
    """A copy of a T2T-ViT for inference on the CPU, in eval mode, with weights of `dtype`: float32 or bfloat16.

    Args:
        only_native: the kernels compiled on this machine or an error, where else torch's operations take their place.

    Raises:
        UserError: `only_native`, and they cannot run here.
    """
    reason = native.unavailable()
    if only_native and reason is not None:
        raise cannot_run("native", reason)
    network = copy.deepcopy(model).cpu().to(dtype).eval().requires_grad_(False)
    if isinstance(network.tokens_to_token, TokensToToken):
        network.set_submodule("tokens_to_token", PackedTokens(network.tokens_to_token, reason is None))
    swap(network, reason is None)
    return PackedNetwork(network, dtype)


def packed_for(model: nn.Module, images: Tensor, kernels: str) -> PackedNetwork | None:
    """The packed network that gives the model's answer for these images, or nothing where the model does so itself.

    It is made at the first call and again when the weights have changed.

    Args:
        kernels: "auto"; "native" for an error where the compiled kernels cannot run; with other names there is none.
    """
    if torch.is_grad_enabled() or model.training or kernels not in {"auto", "native"} or watched(images):
        return None
    modules = list(model.modules())  # the model itself is the first
    if any(module._forward_hooks or module._forward_pre_hooks for module in modules[1:]):
        return None  # somebody wants to see what goes through the layers
    held = chain.from_iterable((*module._parameters.values(), *module._buffers.values()) for module in modules)
    tensors = [tensor for tensor in held if tensor is not None]
    dtype = _dtype(tensors)
    if dtype is None or not can_pack(images.device, dtype) or any(tensor.is_inference() for tensor in tensors):
        return None
    state = _state(modules, tensors)
    with _lock:
        known, by_dtype = _packed.get(model, (None, {}))
        if known != state:
            by_dtype = {}
            _packed[model] = state, by_dtype
        if dtype not in by_dtype:
            # What is made in inference mode could not be asked for its changes.
            with torch.inference_mode(mode=False), torch.no_grad():
                by_dtype[dtype] = pack(model, dtype, only_native=kernels == "native")
        return by_dtype[dtype]


def _dtype(tensors: Iterable[Tensor]) -> torch.dtype | None:
    """What the weights would be multiplied in, where all are on the CPU and of one dtype."""
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors if tensor.is_floating_point()}
    if len(kinds) != 1:
        return None
    [(device, dtype)] = kinds
    if device != "cpu":
        return None
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else dtype


def _state(modules: list[nn.Module], tensors: list[Tensor]) -> Any:
    """What changes when the network does: its modules and settings, and of its tensors place, count and samples."""
    settings = (str, int, tuple, type(None))
    plain = tuple((name, value) for name, value in vars(modules[0]).items() if isinstance(value, settings))
    places = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    samples = [tensor.reshape(-1)[::SAMPLE].tolist() for tensor in tensors if tensor.ndim > 1]
    return [*map(id, modules)], plain, places, samples
