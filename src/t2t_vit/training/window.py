"""Steps -> one reading: what happened since the last time somebody looked."""

import math
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from t2t_vit.training.norms import Norms
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics
from t2t_vit.training.utilisation import Utilisation

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Instruments:
    """What a run is measured with, beside its own steps.

    device       whose memory is read
    processes    how many share the work, each with as many images on a device of its own
    norms        those of weights and updates; None: not measured
    utilisation  None where the peak of the device is not known
    """

    device: torch.device = _CPU
    processes: int = 1
    norms: Norms | None = None
    utilisation: Utilisation | None = None


ON_ONE_CPU = Instruments()
MEASURED = tuple(name for name in StepMetrics._fields if name != "images")


@dataclass(frozen=True)
class Reading:
    """The updates since the last reading. What is not known is NaN.

    loss               mean training loss of the finite ones
    grad_norm          the largest finite global gradient norm before clipping
    param_norm         global norm of the weights after the last one
    update_norm        global norm of what the last one added to them
    skipped            how many were skipped for a gradient that was not finite
    scale              loss scale of the last one
    images_per_second  images of all processes over seconds of training, evaluations left out
    data_wait          share of those seconds spent waiting for data, in [0, 1]
    mfu                share of the devices' peak arithmetic that the model needed, in [0, 1]
    memory             the most memory used so far, in bytes: the accelerator's, or this process's in RAM
    seconds_per_step   seconds of training an update took
    """

    loss: float
    grad_norm: float
    param_norm: float
    update_norm: float
    skipped: int
    scale: float
    images_per_second: float
    data_wait: float
    mfu: float
    memory: float
    seconds_per_step: float


class Window:
    """Collects steps without touching the device; `read` waits for the last one and starts anew.

    Args:
        state: whose clock is read.
    """

    def __init__(self, state: State, instruments: Instruments = ON_ONE_CPU) -> None:
        self._state, self._clock, self._instruments = state, state.clock, instruments
        self._steps: list[StepMetrics] = []
        self._before = 0  # how many of them were made before the run was stopped, and took no time of this one
        self._training, self._waiting = self._clock.training, self._clock.waiting

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, metrics: StepMetrics) -> None:
        """Remember a step; its tensors stay on the device."""
        self._steps.append(metrics)

    def state_dict(self) -> dict[str, Any]:
        """The steps since the last reading as columns of tensors, without what was timed."""
        steps = self._steps
        return {name: torch.stack([getattr(step, name) for step in steps]) for name in MEASURED} if steps else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`. Images that were counted before are not part of the speed."""
        columns = [state[name].to(self._instruments.device).unbind() for name in MEASURED] if state else []
        self._steps = [StepMetrics._make((*values, 0)) for values in zip(*columns, strict=True)]
        self._before = len(self._steps)

    def read(self) -> Reading:
        """What the steps since the last reading say, with one transfer from the device."""
        rows = [torch.stack([getattr(step, name) for step in self._steps]) for name in ("loss", "grad_norm")]
        losses, norms = torch.stack(rows).tolist()  # waits here
        seconds = max(self._clock.training - self._training, 1e-9)
        waited = self._clock.waiting - self._waiting
        finite = [loss for loss, norm in zip(losses, norms, strict=True) if math.isfinite(norm)]
        images = sum(step.images for step in self._steps)  # of this process, so of one device
        has = self._instruments
        param_norm, update_norm = has.norms.read(self._state.step) if has.norms else (math.nan, math.nan)
        reading = Reading(
            loss=sum(finite) / len(finite) if finite else math.nan,
            grad_norm=max(filter(math.isfinite, norms), default=math.nan),
            param_norm=param_norm,
            update_norm=update_norm,
            skipped=len(losses) - len(finite),
            scale=self._steps[-1].scale.item(),
            images_per_second=has.processes * images / seconds,
            data_wait=min(1.0, waited / seconds),
            mfu=has.utilisation.of(images / seconds) if has.utilisation else math.nan,
            memory=peak_memory(has.device),
            seconds_per_step=seconds / max(1, len(self._steps) - self._before),
        )
        self._steps.clear()
        self._before = 0
        self._training, self._waiting = self._clock.training, self._clock.waiting
        return reading


def peak_memory(device: torch.device) -> float:
    """The most memory used so far, in bytes: the accelerator's by tensors, or this process's in RAM."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
