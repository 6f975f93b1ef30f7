"""The key `kernels`: how the commands make a network that they built themselves fast, and what they print of it."""

from typing import Literal, get_args

import torch
from torch import nn

from t2t_vit.errors import UserError
from t2t_vit.fast.fuse import fuse, why_not_fusible
from t2t_vit.fast.native import why_not_native
from t2t_vit.fast.pack import PACKED_DTYPES, pack
from t2t_vit.model import T2TViT

Kernels = Literal["auto", "reference", "cpu", "native", "triton"]
NAMES: tuple[str, ...] = get_args(Kernels)
PACKS = ("cpu", "native")


def check_kernels(kernels: str, device: torch.device) -> None:
    """Raises UserError where `kernels` cannot run on `device`, before anything is read or written."""
    if kernels not in NAMES:
        raise UserError(f"there are no kernels '{kernels}'; choose {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    reason = None
    if kernels in PACKS and device.type != "cpu":
        reason = f"they are for inference on a CPU, and the device is {device.type}"
    elif kernels == "native":
        reason = why_not_native()
    elif kernels == "triton":
        reason = why_not_fusible(device)
    if reason is not None:
        raise UserError(f"kernels '{kernels}' cannot run: {reason}; 'auto' takes the fastest that can")


def for_inference(model: T2TViT, kernels: str, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, str]:
    """The network as `kernels` says, ready to predict on `device`, and what it is made of in a few words.

    Args:
        model: in eval mode, on any device; packed, it is copied, else it is changed in place and returned.
        dtype: what products are made in; float16 is never packed.

    Raises:
        UserError: they were asked for by name and cannot run.
    """
    check_kernels(kernels, device)
    if kernels in PACKS or (kernels == "auto" and device.type == "cpu" and dtype in PACKED_DTYPES):
        packed = pack(model, dtype, native={"cpu": False, "native": True}.get(kernels))
        return packed, f"a packed copy ({packed.made_of})"
    return model, _in_place(model, kernels, device)


def for_training(model: T2TViT, kernels: str, device: torch.device) -> str:
    """Fuse the network where `kernels` says so, in place; what it is made of, in a few words.

    Raises:
        UserError: they were asked for by name and cannot run.
    """
    check_kernels(kernels, device)
    return _in_place(model, kernels, device)


def packs_evaluation(kernels: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether evaluations during a training use a packed copy, made anew each time."""
    return device.type == "cpu" and kernels in ("auto", *PACKS) and dtype in PACKED_DTYPES


def _in_place(model: T2TViT, kernels: str, device: torch.device) -> str:
    has_splits = model.variant.tokens != "convolution"
    if kernels == "triton" or (kernels == "auto" and has_splits and why_not_fusible(device) is None):
        fuse(model.to(device))
        return "fused with Triton's kernels"
    return "the plain network"
