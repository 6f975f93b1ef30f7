"""What a checkpoint holds, how it is written whole, and how a run is restored from it bit for bit."""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.files import atomic_write
from t2t_vit.training.average import EpochAverage
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.ema import Ema
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.optimizer import put_momentum_at_rest
from t2t_vit.training.state import State

FORMAT, VERSION = "t2t_vit", 1
PROGRESS = ("lr", "evaluated_at", "closed_at", "ended")


@dataclass(frozen=True)
class Identity:
    """What rebuilds the model and its preprocessing: it is the same in every checkpoint of a run.

    config is flat, of plain numbers, strings, booleans and lists; config_text is the same as a file a run can
    be repeated from, and is written next to each checkpoint. data counts what the steps are counted in:
    train_images, val_images, images_per_update, updates_per_epoch, processes; train_files and val_files tell the lists
    of their names from others, teacher its weights. run says whose it is, see `run.RunMark`: id, name
    and the name of its folders.
    """

    arch: str
    config: Mapping[str, Any]
    classes: Sequence[str]
    config_text: str
    data: Mapping[str, int] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """Everything that training changes. `model` is the network itself, neither compiled nor wrapped.

    Of the two averages there is one at most.
    """

    model: nn.Module
    optimizer: Optimizer
    scaler: LossScaler
    ema: Ema | None = None
    average: EpochAverage | None = None

    @property
    def keeps_average(self) -> bool:
        """Whether there are or will be averaged weights."""
        return self.ema is not None or self.average is not None

    @property
    def averaged(self) -> nn.Module | None:
        """The network with the averaged weights; None where there are none, or none yet."""
        if self.average is not None and self.average.count:
            return self.average.module
        return None if self.ema is None else self.ema.module


def checkpoint_content(
    identity: Identity,
    trained: Trained,
    state: State,
    best: Mapping[str, Any] | None = None,
    followers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The checkpoint of the present moment: tensors on the CPU, plain values, no time and no path.

    format, version   "t2t_vit", 1
    arch, config, classes, data, run   see `Identity`
    epoch, step       as in the file's name: the epoch from 1, the updates made
    model, ema        state dicts under the model's own keys; ema holds the averaged weights, of whichever average, and
                      is None where there are none
    average           with `model_average`: what it continues from, see `EpochAverage.state_dict`
    optimizer, scaler their state; scaler is None where the loss is not scaled
    progress          where the run is, apart from its step: lr, evaluated_at, closed_at, ended, see `State`
    metrics           the last evaluation: {"step": its step, "raw": {"loss", "top1", "top5", "count", and where they
                      are known "balanced_accuracy", "macro_f1"}, "ema": ...}
    best              the lists of best checkpoints, see `retention.BestList`
    followers         what the callbacks have to know to continue, by their class: the numbers since the last line
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "arch": identity.arch,
        "config": identity.config,
        "classes": list(identity.classes),
        "data": identity.data,
        "run": identity.run,
        "epoch": state.epoch,
        "step": state.step,
        "model": trained.model.state_dict(),
        "ema": None if trained.averaged is None else trained.averaged.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "scaler": None if trained.scaler.is_identity else trained.scaler.state_dict(),
        "progress": {name: getattr(state, name) for name in PROGRESS},
        "metrics": _metrics(state),
        "best": best or {},
        "followers": followers or {},
    }
    if trained.average is not None:
        content["average"] = trained.average.state_dict()
    return {name: _plain(value) for name, value in content.items()}


def checkpoint_name(arch: str, state: State) -> str:
    """ARCH-EPOCH_STEP.ckpt: the epoch from 1, the updates since the start of the run."""
    return f"{arch}-{state.epoch}_{state.step}.ckpt"


def serialised(content: Mapping[str, Any]) -> memoryview:
    """The bytes of a checkpoint; what happens to the tensors afterwards does not change them."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getbuffer()


def write_checkpoint(paths: Sequence[Path], data: memoryview, config_text: str) -> None:
    """Write the bytes of one checkpoint under each of `paths`, and the configuration next to each as .yaml.

    All new ones appear whole or none does; what was there before stays until then.

    Raises:
        UserError: a folder cannot be written, or the disk is full.
    """
    pairs = [(path, path.with_suffix(".yaml")) for path in paths]
    new = [file for pair in pairs for file in pair if not file.exists()]
    try:
        for path, config_path in pairs:
            with atomic_write(config_path, "w") as file:
                file.write(config_text)
            with atomic_write(path, size=data.nbytes) as file:
                file.write(data)
    except BaseException:
        for path in new:  # on a full disk, files that no list has must not take room
            with suppress(OSError):
                path.unlink()
        raise


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint and the configuration next to it; one that is gone already is no error."""
    for file in (path, path.with_suffix(".yaml")):
        if not file.is_dir():  # which is not an entry of a run
            file.unlink(missing_ok=True)


def _metrics(state: State) -> dict[str, Any]:
    if not state.results:
        return {}
    return {"step": state.evaluated_at} | {name: metrics.numbers() for name, metrics in state.results.items()}


def _plain(value: Any) -> Any:
    """`value` with its tensors on the CPU, each in a storage of its own size.

    Containers are rebuilt and equal texts become one object: a pickle refers back to an object that it has seen, so
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


# These entries of a group come from the present configuration and machine; all others (counters, learnt scales, the
# layer's share of the learning rate) come from the run.
PRESENT = ("weight_decay", "betas", "eps", "momentum", "nesterov", "fused", "foreach", "capturable")


def restore(content: Mapping[str, Any], path: Path, trained: Trained, state: State) -> None:
    """Bring weights, averages, optimizer, loss scale and `state` to where `content`, of `path`, left them.

    `state` keeps its end: a run may be continued for longer than it was begun for.

    Raises:
        UserError: the content does not fit the network or the optimizer.
    """
    with _fitting(path):
        trained.model.load_state_dict(content["model"])
        if trained.ema is not None:
            trained.ema.module.load_state_dict(content["ema"])
        if trained.average is not None:
            trained.average.load_state_dict(content["average"], content["ema"])
        restore_optimizer(trained.optimizer, content["optimizer"])
        if not trained.scaler.is_identity and content["scaler"] is not None:
            trained.scaler.load_state_dict(content["scaler"])
        state.step = content["step"]
        for name in PROGRESS:
            setattr(state, name, content["progress"][name])
        state.ended = state.ended and state.complete
        state.results = metrics_in(content)


def metrics_in(content: Mapping[str, Any]) -> dict[str, Metrics]:
    """The last evaluation that a checkpoint knows, by the name of the weights."""
    return {name: Metrics(**numbers) for name, numbers in content["metrics"].items() if name != "step"}


def restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """`optimizer.load_state_dict`, but every tensor of the state keeps its type, and settings are the present ones.

    torch's own casts the state to the type of the parameter, which would round a float32 moment of a float16 weight.

    Raises:
        ValueError: a group or a tensor is not what this optimizer makes for these parameters.
    """
    groups = [_group(old, new) for old, new in zip(saved["param_groups"], optimizer.param_groups, strict=True)]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    fused = [group.get("fused") for group in optimizer.param_groups for _ in group["params"]]
    _check_kinds(saved["state"], parameters, numbers)
    for number, parameter, is_fused in zip(numbers, parameters, fused, strict=True):
        _check_state(saved["state"].get(number, {}), parameter, _made_by(optimizer), whole=bool(is_fused))
    optimizer.load_state_dict({**saved, "param_groups": groups})
    if type(optimizer) is SGD:
        put_momentum_at_rest(optimizer)
    for number, parameter in zip(numbers, parameters, strict=True):
        present = optimizer.state[parameter] if number in saved["state"] else {}
        for name, value in present.items():
            old = saved["state"][number].get(name)
            if isinstance(value, torch.Tensor) and isinstance(old, torch.Tensor) and value.dtype != old.dtype:
                present[name] = old.to(value.device)
    if _made_by(optimizer) is None:
        _try(optimizer)


def _group(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A group of the checkpoint, its settings those of the present one; flags are settings, whatever their name.

    Raises:
        ValueError: a number is none, or is not finite.
    """
    for name, value in old.items():
        is_number = type(value) in (int, float)
        if (type(new.get(name)) in (int, float) and not is_number) or (is_number and not math.isfinite(value)):
            raise ValueError(f"the optimizer's {name} is {str(value)[:60]}")
    flags = [name for name, value in new.items() if type(value) is bool]
    return {**old, **{name: new[name] for name in (*PRESENT, *flags) if name in new}}


def _try(optimizer: Optimizer) -> None:
    """Let a copy of the optimizer make a step of no gradient: what its state has to be, only its code knows.

    Raises:
        ValueError: it cannot make one.
    """
    copy = deepcopy(getattr(optimizer, "_base_optimizer", optimizer))  # timm's Lookahead cannot be copied itself
    for group in copy.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        with torch.random.fork_rng(devices=[]):
            copy.step()
    except Exception as error:  # any error of other people's code
        raise ValueError(f"the optimizer cannot continue from its state: {type(error).__name__}, {error}") from error


def _check_kinds(
    states: Mapping[Any, Mapping[str, Any]], parameters: Sequence[torch.Tensor], numbers: Sequence[int]
) -> None:
    """Refuse a state that has other entries, or entries of another kind, than that of a parameter of the same shape.

    Raises:
        ValueError: there is one.
    """
    seen: dict[tuple[int, ...], dict[str, type]] = {}
    kinds: dict[str, type] = {}
    for number, parameter in zip(numbers, parameters, strict=True):
        if not (state := states.get(number)):
            continue
        own = {name: type(value) for name, value in state.items() if value is not None}
        first = seen.setdefault(tuple(parameter.shape), own)
        if own.keys() != first.keys() or any(kinds.setdefault(name, kind) is not kind for name, kind in own.items()):
            raise ValueError(
                f"the optimizer's state of a weight has {', '.join(map(str, own))[:80]}, unlike those of other weights"
            )


def _made_by(optimizer: Optimizer) -> frozenset[str] | None:
    """The names of the state that torch's own optimizers make for a parameter; None of others."""
    if type(optimizer) is AdamW:
        return frozenset({"step", "exp_avg", "exp_avg_sq"})
    return frozenset({"momentum_buffer"}) if type(optimizer) is SGD else None


def _check_state(
    state: Mapping[str, Any], parameter: torch.Tensor, names: frozenset[str] | None, *, whole: bool
) -> None:
    """Refuse what does not belong to the parameter: torch's fused optimizers would write past the end of a tensor.

    Counters are single numbers. Everything else of a fused optimizer is as large as the parameter (`whole`) and finite;
    factored moments of others have some of its sides.
    """
    if names is not None and state and state.keys() != names:
        raise ValueError(f"the optimizer's state has {', '.join(map(str, state))[:80]}, not {', '.join(sorted(names))}")
    sides = {1, parameter.numel(), *parameter.shape}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            if names is not None and not (value is None and name == "momentum_buffer"):  # none was made yet
                raise ValueError(f"the optimizer's {name} is {str(value)[:60]}")
            continue
        is_sane = not names or bool(value.isfinite().all() if name != "step" else 0 <= value.sum() < math.inf)
        if not is_sane:
            raise ValueError(f"the optimizer's {name} is {'not finite' if name != 'step' else str(value)[:60]}")
        is_counter = value.numel() == 1 and (name == "step" or not whole)
        fits = value.shape == parameter.shape if whole else sides.issuperset(value.shape)
        is_number = value.dtype in (parameter.dtype, torch.float32) if whole else value.is_floating_point()
        if not (is_counter or (fits and is_number)):
            raise ValueError(
                f"the optimizer's {name} is {tuple(value.shape)} {value.dtype}, its weight {tuple(parameter.shape)}"
            )


def recall(content: Mapping[str, Any], path: Path, callbacks: Iterable[Callback]) -> None:
    """Give every callback back what it knew.

    Raises:
        UserError: it is not what the callback wrote.
    """
    with _fitting(path):
        for callback in callbacks:
            callback.load_state_dict(content["followers"].get(type(callback).__name__, {}))


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its run cannot be continued: it does not match ({reason})") from error
