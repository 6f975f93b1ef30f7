"""Parameters -> groups -> an optimizer, and the learning rate of each of its steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from t2t_vit.errors import UserError

TORCH_OPTIMIZERS = ("adamw", "momentum", "sgd")


def parameter_groups(
    model: nn.Module, weight_decay: float, lr_scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """The trainable parameters of `model` in groups of equal weight decay and, with `lr_scales`, equal learning rate.

    No decay for 1-d parameters, biases and what `model.no_weight_decay()` names: pulling a norm's scale, an
    offset or the class token towards zero regularises nothing (Touvron et al. 2021 and the authors' code).

    Args:
        lr_scales: parameter name -> factor of the learning rate, for every trainable parameter; a group keeps its own
            as `lr_scale`. Groups stand from the smallest factor to the largest.
    """
    named = getattr(model, "no_weight_decay", None)
    spared = set(named()) if callable(named) else set()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_free = parameter.ndim <= 1 or name.endswith("bias") or name in spared
            groups.setdefault((lr_scales[name] if lr_scales else 1.0, is_free), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": 0.0 if is_free else weight_decay}
        | ({"lr_scale": scale} if lr_scales else {})
        for (scale, is_free), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def create_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.9,
    lr_scales: Mapping[str, float] | None = None,
) -> Optimizer:
    """The optimizer called `name` over `parameter_groups(model, weight_decay, lr_scales)`.

    adamw: AdamW (Loshchilov & Hutter 2019). momentum: SGD with classical momentum. sgd: SGD with Nesterov's.
    Every other name is timm's. Each gets of `betas`, `eps` and `momentum` what it takes.

    Raises:
        UserError: neither torch nor timm knows the name, or timm's optimizer does not fit here.
    """
    groups = parameter_groups(model, weight_decay, lr_scales)
    if name == "adamw":
        return _fused_if_supported(
            lambda kind: AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=0.0, **kind)
        )
    if name in {"momentum", "sgd"}:
        nesterov = name == "sgd" and momentum > 0
        optimizer = _fused_if_supported(lambda kind: SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, **kind))
        put_momentum_at_rest(optimizer)
        return optimizer
    return _from_timm(groups, name, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, momentum=momentum)


def set_lr(optimizer: Optimizer, lr: float) -> float:
    """Give every group the learning rate `lr`, times the group's `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    return lr


def _fused_if_supported(create: Callable[[dict[str, bool]], Optimizer]) -> Optimizer:
    try:
        return create({"fused": True})
    except RuntimeError:  # this device or dtype has no fused kernel
        return create({"foreach": True})


def put_momentum_at_rest(optimizer: Optimizer) -> None:
    """Make the momentum of SGD where there is none yet, as zeros, which gives the first step that it takes without.

    torch makes it at the first step, of memory as it is found; a fused step that is skipped leaves that as it is.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _from_timm(
    groups: list[dict[str, Any]],
    name: str,
    *,
    lr: float,
    weight_decay: float,
    betas: Sequence[float],
    eps: float,
    momentum: float,
) -> Optimizer:
    timm: Any = import_module("timm.optim")  # slow to import, and untyped

    plain = name.lower().removeprefix("lookahead_")
    known = timm.list_optimizers()
    if plain not in known:
        near = get_close_matches(plain, [*known, *TORCH_OPTIMIZERS], n=1, cutoff=0.0)[0]
        raise UserError(f"optimizer: {name!r} is unknown to torch and timm; did you mean {near}?")
    info = timm.get_optimizer_info(plain)
    if info.second_order:
        raise UserError(f"optimizer: {name} needs second derivatives, which this training step does not compute")
    extra: dict[str, Any] = {}
    if info.has_betas and info.num_betas == len(betas):
        extra["betas"] = tuple(betas)
    if info.has_eps:
        extra["eps"] = eps
    try:
        optimizer: Optimizer = timm.create_optimizer_v2(
            groups, opt=name, lr=lr, weight_decay=weight_decay, momentum=momentum, **extra
        )
    except (TypeError, ValueError, ImportError, AssertionError, RuntimeError) as error:
        raise UserError(f"optimizer: timm cannot create {name} with these settings ({error})") from error
    return optimizer


def trainable(optimizer: Optimizer) -> list[nn.Parameter]:
    """Every parameter that `optimizer` moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def can_skip_on_device(optimizer: Optimizer) -> bool:
    """Whether `optimizer.step()` skips by itself, without the host looking, where `found_inf` is set."""
    return bool(optimizer.defaults.get("fused"))


@dataclass(frozen=True)
class Schedule:
    """`schedule(step)` is the learning rate of optimizer step number `step`, counted from 0.

    With t = step / updates_per_epoch, in epochs:
        t >= epochs          min_lr (the cooldown)
        t <  warmup_length   warmup_lr + (base_lr - warmup_lr) t / warmup_length
        else, with e = t - warmup_length and E = epochs - warmup_length, and never below min_lr:
            cosine_lr        min_lr + (base_lr - min_lr)(1 + cos(pi e / E)) / 2    (Loshchilov & Hutter 2017)
            multistep_lr     base_lr lr_gamma^floor(e / lr_adjust)
            exp_lr           base_lr lr_gamma^e
            constant_lr      base_lr
            wsd_lr           base_lr, but in the last D = min(lr_decay_share epochs, E) epochs, when x = 1 - (E - e) / D
                             is over of them:
                                 sqrt      min_lr + (base_lr - min_lr)(1 - sqrt(x))
                                 linear    min_lr + (base_lr - min_lr)(1 - x)
                             (warm-up, stable, decay: Hu et al. 2024; Haegele et al. 2024, arXiv 2405.18392)

    `warmup_length` may exceed `epochs`: the run then ends while still warming up.

    Raises:
        UserError: a name that is none of the five.
    """

    name: str
    base_lr: float
    epochs: float
    updates_per_epoch: int
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_length: float = 0.0
    lr_adjust: float = 30.0
    lr_gamma: float = 0.97
    lr_decay_share: float = 0.2
    lr_decay_shape: str = "sqrt"

    def __post_init__(self) -> None:
        if self.name not in DECAYS:
            near = get_close_matches(self.name, DECAYS, n=1, cutoff=0.0)[0]
            raise UserError(f"lr_scheduler: {self.name!r} is not one of {', '.join(DECAYS)}; did you mean {near}?")

    def __call__(self, step: int) -> float:
        time = step / self.updates_per_epoch
        if time >= self.epochs:
            return self.min_lr
        if time < self.warmup_length:
            return self.warmup_lr + (self.base_lr - self.warmup_lr) * time / self.warmup_length
        return max(self.min_lr, DECAYS[self.name](self, time - self.warmup_length))


def _cosine(schedule: Schedule, elapsed: float) -> float:
    share = elapsed / (schedule.epochs - schedule.warmup_length)
    return schedule.min_lr + (schedule.base_lr - schedule.min_lr) * (1 + math.cos(math.pi * share)) / 2


def _multistep(schedule: Schedule, elapsed: float) -> float:
    return schedule.base_lr * schedule.lr_gamma ** math.floor(elapsed / schedule.lr_adjust)


def _exponential(schedule: Schedule, elapsed: float) -> float:
    return schedule.base_lr * schedule.lr_gamma**elapsed


def _constant(schedule: Schedule, _: float) -> float:
    return schedule.base_lr


def _stable_then_decay(schedule: Schedule, elapsed: float) -> float:
    whole = schedule.epochs - schedule.warmup_length
    length = min(schedule.lr_decay_share * schedule.epochs, whole)
    share = 1 - (whole - elapsed) / length
    if share <= 0:
        return schedule.base_lr
    fallen = math.sqrt(share) if schedule.lr_decay_shape == "sqrt" else share
    return schedule.min_lr + (schedule.base_lr - schedule.min_lr) * (1 - fallen)


DECAYS: dict[str, Callable[[Schedule, float], float]] = {
    "cosine_lr": _cosine,
    "multistep_lr": _multistep,
    "exp_lr": _exponential,
    "constant_lr": _constant,
    "wsd_lr": _stable_then_decay,
}
