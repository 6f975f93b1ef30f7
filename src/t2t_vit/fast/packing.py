"""`pack`: a frozen copy of a network for inference on a CPU, the same numbers to rounding in a fraction of the time."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from t2t_vit.errors import UserError
from t2t_vit.fast.copying import copied, shape_alone
from t2t_vit.fast.fusing import unfuse
from t2t_vit.fast.inspection import refuse_what_does_not_fit, refuse_what_is_not_ours
from t2t_vit.fast.native import cpu_level, unavailable
from t2t_vit.fast.packed_layers import PackedBlock, PackedLinear, Tail, swap
from t2t_vit.fast.packed_tokens import PackedTokens, PerformerStage, TransformerStage, WindowsLinear
from t2t_vit.model import T2TViT
from t2t_vit.model.token_logits import token_logits
from t2t_vit.model.tokens_to_token import TokensToToken

PACKED_DTYPES = (torch.float32, torch.bfloat16)
# How a packed network describes itself: the modules that do more than one layer's work.
PARTS: dict[type[nn.Module], str] = {
    PackedBlock: "attentions with the operations before them",
    Tail: "MLPs with the operations before them",
    PerformerStage: "performers",
    TransformerStage: "token attentions",
    WindowsLinear: "soft splits",
}


class PackedNetwork(nn.Module):
    """The result of `pack`: float images (B, in_chans, height, width) on the CPU -> logits (B, num_classes) in `dtype`.

    It has no gradient and is independent of the original network; its repr says which operations it uses.
    """

    network: Any

    def __init__(self, network: T2TViT, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype, self.made_of = network, dtype, _made_of(network, dtype)
        # Windows are normalised directly from the pixels; convolutions multiply them.
        self.takes = torch.float32 if isinstance(network.tokens_to_token, PackedTokens) else dtype
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:  # (B, in_chans, height, width)
        # What it is made of was cast when it was packed; autocast would only look at each operation again.
        with torch.autocast("cpu", enabled=False):
            return self.network.forward_head(self._features(images))  # (B, num_classes)

    @torch.no_grad()
    def token_logits(self, images: Tensor) -> Tensor:
        """Logits of all tokens, (B, 1 + N, num_classes), of images as in `forward`; see `model.token_logits`."""
        with torch.autocast("cpu", enabled=False):
            return token_logits(self.network, self._features(images))

    def _features(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu" or not images.is_floating_point():
            raise ValueError(f"a packed network takes float images on the CPU, got {images.dtype} on {images.device}")
        if not _has_memory(images):
            raise ValueError("a packed network cannot be traced, exported or transformed; use the original network")
        features: Tensor = self.network.forward_features(images.resolve_neg().to(self.takes))
        return features  # (B, 1 + N, num_features)

    def train(self, mode: bool = True) -> "PackedNetwork":
        """Accept only `eval()`: a packed network cannot be trained.

        Raises:
            UserError: it is asked to train.
        """
        if mode:
            raise UserError("a packed network is frozen; train the original network, then pack it again")
        return super().train(mode)

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """Refused: a packed network's weights are laid out for its kernels, and some are folded into others.

        Raises:
            UserError: always.
        """
        raise UserError("a packed network is frozen; load weights into the original network, then pack it again")

    def state_dict(self, *_: Any, **__: Any) -> Any:
        """Refused, as `load_state_dict` is.

        Raises:
            UserError: always.
        """
        raise UserError("a packed network has no state dict; save that of the original network, then pack it again")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refused, for `copy.deepcopy` too: oneDNN's weights have no bytes to copy."""
        raise UserError("a packed network cannot be copied or pickled; copy the original network, then pack it again")

    def _apply(self, fn: Callable[[Tensor], Tensor], *_: Any, **__: Any) -> "PackedNetwork":
        # What `to`, `half` and `cuda` call. Kernels read the weights where and as they were laid out.
        like = fn(torch.empty(0, dtype=self.dtype, device="cpu"))
        if like.dtype is not self.dtype or like.device.type != "cpu":
            raise UserError(
                f"a packed network stays in {_short(self.dtype)} on the CPU; pack the original network in another dtype"
            )
        return self

    def __repr__(self) -> str:
        size = " x ".join(map(str, (self.network.in_chans, *self.network.image_size)))
        return f"PackedNetwork({self.network.name}, {size} -> {self.network.num_classes}; {self.made_of})"


def pack(model: T2TViT, dtype: torch.dtype | None = None, *, native: bool | None = None) -> PackedNetwork:
    """A frozen copy of a T2T-ViT for inference on a CPU.

        fast = t2t_vit.pack(model.eval(), torch.bfloat16)
        logits = fast(images)
        print(fast)  # what it is made of

    Weights are laid out once; norms, activations and residuals are computed within the products, and windows a
    few images at a time. Later changes of the model do not change the copy: pack it again.

    Args:
        model: in eval mode, every module exactly ours: no subclass, patch, hook, adapter or quantised tensor.
        dtype: of weights and products, float32 or bfloat16; None: the weights' own, which then have to be of one.
        native: True: C++ kernels compiled on this machine, or an error; False: only torch's operations; None: the
            kernels if they can run (Linux on x86-64 with AVX-512 and bfloat16, and a C++ compiler).

    Raises:
        UserError: a module, named in the error, is not ours; another dtype; `native`, but the kernels cannot run here.
    """
    refuse_what_is_not_ours(model, "pack", in_eval_mode=True)
    dtype = _common_dtype(model) if dtype is None else dtype
    if dtype not in PACKED_DTYPES:
        raise UserError(f"cannot pack the network in {_short(dtype)}: give float32 or bfloat16 as dtype")
    reason = unavailable() if native is not False else "not asked for"
    if native and reason is not None:
        raise UserError(f"cannot pack the network for the native kernels: {reason}")
    refuse_what_does_not_fit(unfuse(copied(model, shape_alone)), "pack")
    network = unfuse(copied(model, lambda tensor: tensor.to("cpu", dtype, copy=True)))
    if isinstance(network.tokens_to_token, TokensToToken):
        network.set_submodule("tokens_to_token", PackedTokens(network.tokens_to_token, reason is None))
    swap(network, reason is None)
    return PackedNetwork(network, dtype)


def _has_memory(images: Tensor) -> bool:
    """Not so of the stand-ins with which torch.func, torch.export and fake tensors call a network."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # what a kernel writes would be a constant of the trace
        return False
    try:
        return images.untyped_storage().device.type != "meta"
    except RuntimeError:
        return False


def _common_dtype(model: T2TViT) -> torch.dtype:
    """The dtype of all tensors: of several, the plain network computes each layer in its own, or refuses."""
    expected = model.cls_token.dtype
    for name, tensor in model.state_dict().items():
        if tensor.dtype is not expected:
            raise UserError(
                f"cannot pack the network as it is: {name} is of {_short(tensor.dtype)}, cls_token of "
                f"{_short(expected)}; give float32 or bfloat16 as dtype"
            )
    return expected


def _made_of(network: nn.Module, dtype: torch.dtype) -> str:
    """For instance "bfloat16; native (avx512_bf16): 2 performers, ...; oneDNN: 31 linear layers"."""
    parts: dict[str, Counter[str]] = {"native": Counter(), "oneDNN": Counter(), "torch": Counter()}
    for module in network.modules():
        if isinstance(module, PackedLinear):
            parts[module.maker]["linear layers"] += 1
        elif type(module) in PARTS and getattr(module, "native", False):
            parts["native"][PARTS[type(module)]] += 1
    names = {"native": f"native ({cpu_level()})"}
    lists = [
        f"{names.get(maker, maker)}: {', '.join(f'{count} {name}' for name, count in found.items())}"
        for maker, found in parts.items()
        if found
    ]
    return "; ".join([_short(dtype), *lists])


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
