"""The key `kernels`: how the commands make a network that they built themselves fast, and what they print of it."""

from typing import Literal, get_args

import torch
from torch import nn

from t2t_vit.errors import UserError
from t2t_vit.fast.fusing import fuse, why_not_fusible
from t2t_vit.fast.native import unavailable
from t2t_vit.fast.packing import PACKED_DTYPES, pack
from t2t_vit.model import T2TViT
from t2t_vit.precision import Precision

Kernels = Literal["auto", "reference", "cpu", "native", "triton"]
NAMES: tuple[str, ...] = get_args(Kernels)
PACKS = ("cpu", "native")


def check_kernels(kernels: str, device: torch.device) -> None:
    """Raises UserError where `kernels` cannot run on `device`, before anything is read or written."""
    if kernels not in NAMES:
        raise UserError(f"kernels '{kernels}' do not exist; choose {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    reason = None
    if kernels in PACKS and device.type != "cpu":
        reason = f"they are for inference on a CPU, but the device is {device.type}"
    elif kernels == "native":
        reason = unavailable()
    elif kernels == "triton":
        reason = why_not_fusible(device)
    if reason is not None:
        raise UserError(f"kernels '{kernels}' cannot run: {reason}; 'auto' chooses the fastest that can run")


def prepared(model: nn.Module, kernels: str, precision: Precision) -> tuple[nn.Module, str]:
    """The network ready to predict with the precision's numbers on its device, and what it is made of in a few words.

    Args:
        model: in eval mode. Packed, it is copied; else it is moved, cast and perhaps fused in place, and returned.
        kernels: of a module that is no T2T-ViT, "reference" alone.

    Raises:
        UserError: they were asked for by name and cannot run.
    """
    check_kernels(kernels, precision.device)
    if isinstance(model, T2TViT) and packs(kernels, precision):
        packed = pack(model, precision.product_dtype, native={"cpu": False, "native": True}.get(kernels))
        return packed, f"a packed copy ({packed.made_of})"
    made_of = fused_or_plain(model, kernels, precision.device)
    return precision.prepare(model), made_of


def packs(kernels: str, precision: Precision) -> bool:
    """Whether predictions come from a packed copy: on a CPU, and of float16 only where it was asked for by name."""
    can = precision.device.type == "cpu"
    return can and (kernels in PACKS or (kernels == "auto" and precision.product_dtype in PACKED_DTYPES))


def fused_or_plain(model: nn.Module, kernels: str, device: torch.device) -> str:
    """Fuse the network where `kernels` says so, in place; what it is made of, in a few words.

    Raises:
        UserError: "triton" was asked for and cannot run.
    """
    check_kernels(kernels, device)
    splits = isinstance(model, T2TViT) and model.variant.tokens in ("performer", "transformer")
    if isinstance(model, T2TViT) and (
        kernels == "triton" or (kernels == "auto" and splits and device.type == "cuda" and not why_not_fusible(device))
    ):
        fuse(model.to(device))
        return "fused with Triton's kernels"
    return "the plain network"


def for_evaluation(model: nn.Module, kernels: str, precision: Precision) -> nn.Module:
    """What evaluates a network in the middle of its training: on a CPU a new packed copy, else itself."""
    if not isinstance(model, T2TViT) or not packs(kernels, precision):
        return model
    was_training = model.training
    try:
        return prepared(model.eval(), kernels, precision)[0]
    finally:
        model.train(was_training)
