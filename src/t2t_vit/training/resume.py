"""A checkpoint's content -> the run as it was when the checkpoint was written, bit for bit."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.checkpoint import PROGRESS, Trained
from t2t_vit.training.state import State

# Of a group's entries, these are the present configuration's and machine's; all others (counters, learnt scales, the
# layer's share of the learning rate) are the run's.
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
        restore_optimizer(trained.optimizer, content["optimizer"])
        if not trained.scaler.is_identity and content["scaler"] is not None:
            trained.scaler.load_state_dict(content["scaler"])
        state.step = content["step"]
        for name in PROGRESS:
            setattr(state, name, content["progress"][name])
        state.ended = state.ended and state.complete
        measured = {name: numbers for name, numbers in content["metrics"].items() if name != "step"}
        state.results = {name: Metrics(**numbers) for name, numbers in measured.items()}


def restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """`optimizer.load_state_dict`, but every tensor of the state keeps its type, and settings are the present ones.

    torch's own casts the state to the type of the parameter, which would round a float32 moment of a float16 weight.
    """
    groups = [
        {**old, **{name: new[name] for name in PRESENT if name in new}}
        for old, new in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        present = optimizer.state[parameter] if number in saved["state"] else {}
        for name, value in present.items():
            old = saved["state"][number].get(name)
            if isinstance(value, torch.Tensor) and isinstance(old, torch.Tensor) and value.dtype != old.dtype:
                present[name] = old.to(value.device)


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
        told = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its run cannot be continued, it does not fit ({told})") from error
