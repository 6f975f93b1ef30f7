"""What a checkpoint holds, and how it gets to the disk whole."""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from sys import intern
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from t2t_vit.files import atomic_write
from t2t_vit.training.ema import Ema
from t2t_vit.training.scaler import LossScaler
from t2t_vit.training.state import State

FORMAT, VERSION = "t2t_vit", 1
PROGRESS = ("lr", "evaluated_at", "closed_at", "ended")


@dataclass(frozen=True)
class Identity:
    """What rebuilds the model and its preprocessing: it is the same in every checkpoint of a run.

    config is flat, of plain numbers, strings, booleans and lists; config_text is the same as a file a run can
    be repeated from, and is written beside each checkpoint. data counts what the steps are counted in:
    train_images, val_images, images_per_update, updates_per_epoch, processes.
    """

    arch: str
    config: Mapping[str, Any]
    classes: Sequence[str]
    config_text: str
    data: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """Everything that training changes. `model` is the network itself, neither compiled nor wrapped."""

    model: nn.Module
    optimizer: Optimizer
    scaler: LossScaler
    ema: Ema | None = None


def checkpoint_content(
    identity: Identity,
    trained: Trained,
    state: State,
    best: Mapping[str, Any] | None = None,
    followers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The checkpoint of the present moment: tensors on the CPU, plain values, no time and no path.

    format, version   "t2t_vit", 1
    arch, config, classes, data   see `Identity`
    epoch, step       as in the file's name: the epoch from 1, the updates made
    model, ema        state dicts under the model's own keys; ema is None where there is none
    optimizer, scaler their state; scaler is None where the loss is not scaled
    progress          where the run is beside its step: lr, evaluated_at, closed_at, ended, see `State`
    metrics           the last evaluation: {"step": its step, "raw": {"loss", "top1", "top5", "count"}, "ema": ...}
    best              the lists of best checkpoints, see `retention.BestList`
    followers         what the callbacks have to know to go on, by their class: the numbers since the last line
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "arch": identity.arch,
        "config": identity.config,
        "classes": list(identity.classes),
        "data": identity.data,
        "epoch": state.epoch,
        "step": state.step,
        "model": trained.model.state_dict(),
        "ema": None if trained.ema is None else trained.ema.module.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "scaler": None if trained.scaler.is_identity else trained.scaler.state_dict(),
        "progress": {name: getattr(state, name) for name in PROGRESS},
        "metrics": _metrics(state),
        "best": best or {},
        "followers": followers or {},
    }
    return {name: _plain(value) for name, value in content.items()}


def checkpoint_name(arch: str, state: State) -> str:
    """ARCH-EPOCH_STEP.ckpt: the epoch from 1, the updates since the start of the run."""
    return f"{arch}-{state.epoch}_{state.step}.ckpt"


def write_checkpoint(paths: Sequence[Path], content: Mapping[str, Any], config_text: str) -> None:
    """Write one checkpoint under each of `paths`, and the configuration beside each as .yaml.

    All new ones appear whole or none does; what was there before stays until then.

    Raises:
        UserError: a folder cannot be written, or the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    pairs = [(path, path.with_suffix(".yaml")) for path in paths]
    new = [file for pair in pairs for file in pair if not file.exists()]
    try:
        for path, beside in pairs:
            with atomic_write(beside, "w") as file:
                file.write(config_text)
            with atomic_write(path, size=buffer.getbuffer().nbytes) as file:
                file.write(buffer.getbuffer())
    except BaseException:
        for path in new:  # a disk that is full has no room for what no list names
            with suppress(OSError):
                path.unlink()
        raise


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


def _plain(value: Any) -> Any:
    """`value` with its tensors on the CPU, each in a storage of its own size.

    Containers are made anew and equal texts become one object: a pickle refers back to an object that it has seen, so
    a continued run, which has read its own from a file, would else write other bytes than one that never stopped.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        owns_all = tensor.untyped_storage().nbytes() == tensor.nbytes
        return tensor if owns_all and tensor.is_contiguous() else tensor.contiguous().clone()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_plain(item) for item in value])
    return intern(value) if type(value) is str else value
