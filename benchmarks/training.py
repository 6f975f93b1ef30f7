"""A training step of each contestant, on one batch that lies on the device.

The authors' step is their main.py's with its own mixed precision: autocast to float16 and a gradient scaler. What it
does beside that is left out in their favour: it reads the loss and waits for the device in every step, and averages the
weights in a Python loop.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from t2t_vit.training.compilation import compile_for_training
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.step import TrainStep

Step = Callable[[], object]
Autocast = Callable[[], AbstractContextManager[object]]


def plain(model: nn.Module, images: Tensor, targets: Tensor, autocast: Autocast = nullcontext) -> Step:
    """Forward under `autocast`, loss in float32, backward, AdamW; the same for everybody."""
    optimizer = torch.optim.AdamW(model.train().parameters(), fused=True)

    def step() -> None:
        with autocast():
            logits = model(images)
        cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def authors_amp(model: nn.Module, images: Tensor, targets: Tensor) -> Step:
    """The authors' own mixed precision."""
    optimizer = torch.optim.AdamW(model.train().parameters(), fused=True)
    scaler = torch.amp.GradScaler(images.device.type)

    def step() -> None:
        with torch.autocast(images.device.type, dtype=torch.float16):
            loss = cross_entropy(model(images), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()  # they do it before the backward pass; here the same network may take other steps

    return step


def as_shipped(model: nn.Module, images: Tensor, targets: Tensor, autocast: Autocast = nullcontext) -> Step:
    """What `t2t-vit train` takes: compiled where this machine can, and the package's own step."""
    optimizer = torch.optim.AdamW(model.train().parameters(), fused=True)
    form = compile_for_training(model, images.device, print)
    step = TrainStep(form, optimizer, scaler=LossScaler(images.device), autocast=autocast)
    return lambda: step([(images, targets)])
