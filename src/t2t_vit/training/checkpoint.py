"""What a checkpoint holds, and how it gets to the disk whole."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from t2t_vit.files import atomic_write
from t2t_vit.training.ema import Ema
from t2t_vit.training.scaler import LossScaler
from t2t_vit.training.state import State

FORMAT, VERSION = "t2t_vit", 1


@dataclass(frozen=True)
class Identity:
    """What rebuilds the model and its preprocessing: it is the same in every checkpoint of a run.

    config is flat, of plain numbers, strings, booleans and lists; config_text is the same as a file a run can
    be repeated from, and is written beside each checkpoint.
    """

    arch: str
    config: Mapping[str, Any]
    classes: Sequence[str]
    config_text: str


@dataclass(frozen=True)
class Trained:
    """Everything that training changes. `model` is the network itself, neither compiled nor wrapped."""

    model: nn.Module
    optimizer: Optimizer
    scaler: LossScaler
    ema: Ema | None = None


def checkpoint_content(
    identity: Identity, trained: Trained, state: State, best: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The checkpoint of the present moment: tensors on the CPU, plain values, no time and no path.

    format, version   "t2t_vit", 1
    arch, config, classes   see `Identity`
    epoch, step       as in the file's name: the epoch from 1, the updates made
    model, ema        state dicts under the model's own keys; ema is None where there is none
    optimizer, scaler their state
    metrics           the last evaluation: {"step": its step, "raw": {"loss", "top1", "top5", "count"}, "ema": ...}
    best              the lists of best checkpoints, see `retention.BestList`
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "arch": identity.arch,
        "config": dict(identity.config),
        "classes": list(identity.classes),
        "epoch": state.epoch,
        "step": state.step,
        "model": _on_cpu(trained.model.state_dict()),
        "ema": None if trained.ema is None else _on_cpu(trained.ema.module.state_dict()),
        "optimizer": _on_cpu(trained.optimizer.state_dict()),
        "scaler": _on_cpu(trained.scaler.state_dict()),
        "metrics": _metrics(state),
        "best": dict(best or {}),
    }


def checkpoint_name(arch: str, state: State) -> str:
    """ARCH-EPOCH_STEP.ckpt: the epoch from 1, the updates since the start of the run."""
    return f"{arch}-{state.epoch}_{state.step}.ckpt"


def write_checkpoint(paths: Sequence[Path], content: Mapping[str, Any], config_text: str) -> None:
    """Write one checkpoint under each of `paths`, and the configuration beside each as .yaml.

    Every file appears whole or not at all; what was there before stays until then.

    Raises:
        UserError: a folder cannot be written, or the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    for path in paths:
        with atomic_write(path.with_suffix(".yaml"), "w") as file:
            file.write(config_text)
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint and the configuration beside it; one that is gone already is fine."""
    for file in (path, path.with_suffix(".yaml")):
        file.unlink(missing_ok=True)


def _metrics(state: State) -> dict[str, Any]:
    if not state.results:
        return {}
    kept = ("loss", "top1", "top5", "count")
    numbers = {name: asdict(metrics) for name, metrics in state.results.items()}
    return {"step": state.evaluated_at} | {name: {key: values[key] for key in kept} for name, values in numbers.items()}


def _on_cpu(value: Any) -> Any:
    """`value` with its tensors on the CPU, each in a storage of its own size."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        owns_all = tensor.untyped_storage().nbytes() == tensor.nbytes
        return tensor if owns_all and tensor.is_contiguous() else tensor.contiguous().clone()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(item) for item in value)
    return value
