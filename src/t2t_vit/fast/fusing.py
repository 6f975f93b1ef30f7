"""`fuse` and `unfuse`: kernels over a network's live weights, training included."""

import torch
from torch import nn

from t2t_vit.errors import UserError
from t2t_vit.fast.copying import copied, shape_alone
from t2t_vit.fast.fused_layers import FusedTokensToToken, RecomputingMlp
from t2t_vit.fast.inspection import refuse_what_does_not_fit, refuse_what_is_not_ours
from t2t_vit.model import T2TViT
from t2t_vit.model.backbone import Mlp
from t2t_vit.model.tokens_to_token import TokenPerformer, TokensToToken

CAPABILITY = (8, 0)  # the oldest GPUs that the kernels were written for: before, they lack bfloat16 and shared memory
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST = 128  # of the performer's kernels: length of a token, and random features
FUSED: dict[type[nn.Module], type[nn.Module]] = {TokensToToken: FusedTokensToToken, Mlp: RecomputingMlp}


def fuse(model: T2TViT) -> T2TViT:
    """Compute with Triton kernels from now on, in place; weights, names and settings do not change.

    The T2T module's windows are never stored, its performers read their tokens only twice, and MLPs keep half as much
    for the gradient. The kernels read the live weights, so training, loading and averaging work as before.

    Args:
        model: on a CUDA device of compute capability 8.0 or more, in any mode. Every module has to be exactly ours: no
            subclass, patch, hook, adapter or quantised tensor. If a module that the kernels read is changed later,
            the next forward pass refuses it.

    Returns:
        The same model; `unfuse` restores its own modules.

    Raises:
        UserError: the kernels cannot run on its device, or a module, named in the error, is not ours.
    """
    reason = why_not_fusible(model.cls_token.device if isinstance(model, T2TViT) else torch.device("cpu"))
    if reason is not None:
        raise UserError(f"cannot fuse the network: {reason}")
    refuse_what_is_not_ours(model, "fuse", in_eval_mode=False)
    refuse_what_does_not_fit(unfuse(copied(model, shape_alone)), "fuse")
    if not isinstance(model.tokens_to_token, TokensToToken):
        raise UserError(f"cannot fuse the network: {model.name} has no soft split")
    for name, tensor in model.state_dict().items():
        if tensor.dtype not in KERNEL_DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"cannot fuse the network: {name} is of {kind}, which the kernels do not compute in")
    performers = {name: module for name, module in model.named_modules() if isinstance(module, TokenPerformer)}
    for name, module in performers.items():
        if module.w.requires_grad:
            raise UserError(f"cannot fuse the network: {name} has a w that requires a gradient, which kernels lack")
    longest = max((max(module.w.shape) for module in performers.values()), default=0)
    if longest > WIDEST:
        raise UserError(
            f"cannot fuse the network: the kernels take tokens of up to {WIDEST} numbers, its performers have {longest}"
        )
    _set_classes(model, FUSED)
    return model


def unfuse(model: T2TViT) -> T2TViT:
    """Restore the plain network, in place; does nothing if the network is not fused."""
    _set_classes(model, {fused: plain for plain, fused in FUSED.items()})
    return model


def is_fused(model: nn.Module) -> bool:
    """Whether `fuse` was called on the network."""
    return any(type(module) in FUSED.values() for module in model.modules())


def why_not_fusible(device: torch.device) -> str | None:
    """Why the kernels cannot run on this device, as the end of a sentence; None: they can."""
    try:
        from t2t_vit.ops.performer_triton import interpreting
    except ImportError:
        return "triton is not installed; it comes with PyTorch for CUDA"
    if device.type == "cpu" and interpreting():  # in Triton's interpreter, slowly, for tests
        return None
    if device.type != "cuda":
        where = "there is none" if not torch.cuda.is_available() else f"the network is on {device.type}"
        return f"its kernels need a CUDA device, but {where}"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        needed, has = (".".join(map(str, version)) for version in (CAPABILITY, capability))
        return f"its kernels need a GPU of compute capability {needed} or more, but this one has {has}"
    return None


def _set_classes(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
