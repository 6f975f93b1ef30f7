"""The recipe of a run in one line, told before it begins."""

from torch import nn
from torch.optim import Optimizer

from t2t_vit.settings.schema import Config
from t2t_vit.training.optimizer import trainable
from t2t_vit.training.state import State


def recipe_line(config: Config, model: nn.Module, optimizer: Optimizer, state: State, images: int) -> str:
    """Optimizer, learning rates, length, and what is frozen.

    Args:
        images: how many make one update, over all processes and accumulated batches.
    """
    lowest = min(group.get("lr_scale", 1.0) for group in optimizer.param_groups)
    rates = f"learning rate up to {config.base_lr:.3g}"
    if lowest < 1:
        rates += f" (layer_decay {config.layer_decay:g}: {config.base_lr * lowest:.2g} in the first layer that learns)"
    steps = state.last_step - state.step
    parts = [
        config.optimizer,
        rates,
        f"weight_decay {config.weight_decay:g}",
        f"{steps:,} steps of {images:,} images, {state.updates_per_epoch:,} an epoch",
    ]
    if config.freeze:
        learning, total = sum(p.numel() for p in trainable(optimizer)), sum(p.numel() for p in model.parameters())
        parts.append(f"frozen: {FROZEN.get(config.freeze, f'the T2T module and blocks 1 to {config.freeze}')}")
        parts.append(f"{learning:,} of {total:,} parameters are trained")
    return ", ".join(parts)


FROZEN = {"tokens": "the T2T module", "backbone": "all but the head"}
