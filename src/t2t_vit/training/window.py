"""Steps -> one reading: what happened since the last time somebody looked."""

import math
import resource
import sys
from dataclasses import dataclass

import torch

from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


@dataclass(frozen=True)
class Reading:
    """The updates since the last reading.

    loss               mean training loss of the finite ones; NaN if there is none
    grad_norm          the largest finite global gradient norm before clipping
    skipped            how many were skipped for a gradient that was not finite
    scale              loss scale of the last one
    images_per_second  images of all processes over seconds of training, evaluations left out
    data_wait          share of those seconds spent waiting for data, in [0, 1]
    seconds_per_step   seconds of training an update took
    """

    loss: float
    grad_norm: float
    skipped: int
    scale: float
    images_per_second: float
    data_wait: float
    seconds_per_step: float


class Window:
    """Collects steps without touching the device; `read` waits for the last one and starts anew.

    Args:
        state: whose clock is read.
        processes: how many share the work, each with as many images.
    """

    def __init__(self, state: State, processes: int = 1) -> None:
        self._clock = state.clock
        self._processes = processes
        self._steps: list[StepMetrics] = []
        self._training, self._waiting = self._clock.training, self._clock.waiting

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, metrics: StepMetrics) -> None:
        """Remember a step; its tensors stay on the device."""
        self._steps.append(metrics)

    def read(self) -> Reading:
        """What the steps since the last reading say, with one transfer from the device."""
        rows = [torch.stack([getattr(step, name) for step in self._steps]) for name in ("loss", "grad_norm")]
        losses, norms = torch.stack(rows).tolist()  # waits here
        scale = self._steps[-1].scale.item()
        seconds = max(self._clock.training - self._training, 1e-9)
        waited = self._clock.waiting - self._waiting
        finite = [loss for loss, norm in zip(losses, norms, strict=True) if math.isfinite(norm)]
        reading = Reading(
            loss=sum(finite) / len(finite) if finite else math.nan,
            grad_norm=max(filter(math.isfinite, norms), default=math.nan),
            skipped=len(losses) - len(finite),
            scale=scale,
            images_per_second=self._processes * sum(step.images for step in self._steps) / seconds,
            data_wait=min(1.0, waited / seconds),
            seconds_per_step=seconds / len(self._steps),
        )
        self._steps.clear()
        self._training, self._waiting = self._clock.training, self._clock.waiting
        return reading


def peak_memory(device: torch.device) -> float:
    """The most memory used so far, in bytes: the accelerator's by tensors, or this process's in RAM."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
