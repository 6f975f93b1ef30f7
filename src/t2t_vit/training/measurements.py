"""What a run is measured by: loss, norms, speed, memory, waiting for data and model FLOP utilisation."""

import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from t2t_vit.platforms import peak_resident_memory
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.optimizer import trainable
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics

# Peak rates of one device in TFLOP/s: matrix products in 16 bits with 32-bit sums, in TF32, and in float32. They are
# those without sparsity from the data sheets; some sheets give only the rate with sparsity, of which
# this is half. A device that is not in the table has no MFU: a guess would be worse than none.
PEAKS: tuple[tuple[str, float, float, float], ...] = (
    (r"NVIDIA B200", 2250, 1125, 75),  # HGX B200, data sheet 2024: 8 GPUs
    (r"NVIDIA H200", 989, 494, 67),  # H200 data sheet 2024, SXM
    (r"NVIDIA H200 NVL", 835, 417, 60),
    (r"NVIDIA GH200( \d+GB)?", 989, 494, 67),  # Grace Hopper data sheet 2023
    (r"NVIDIA H100 (80GB HBM3|SXM5.*|64GB HBM2)", 989, 494, 67),  # H100 data sheet 2023, SXM
    (r"NVIDIA H100 NVL", 835, 417, 60),
    (r"NVIDIA H100 PCIe", 756, 378, 51),
    (r"(NVIDIA )?A100-(SXM4|PCIE|PG5.*)-\d+GB|NVIDIA A100 80GB PCIe", 312, 156, 19.5),  # A100 data sheet 2021
    (r"NVIDIA A30", 165, 82, 10.3),  # data sheet 2021
    (r"NVIDIA A40", 149.7, 74.8, 37.4),  # data sheet 2021
    (r"NVIDIA A10", 125, 62.5, 31.2),  # data sheet 2021
    (r"NVIDIA L4", 121, 60, 30.3),  # data sheet 2023
    (r"NVIDIA L40", 181, 90.5, 90.5),  # data sheet 2022
    (r"NVIDIA L40S", 362, 183, 91.6),  # data sheet 2023
    (r"NVIDIA GeForce RTX 3090", 71, 35.6, 35.6),  # GA102 white paper, appendix
    (r"NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),  # Ada white paper, appendix
    (r"NVIDIA GeForce RTX 5090", 209.5, 104.8, 104.8),  # Blackwell RTX white paper, appendix
    (r"AMD Instinct MI300X.*", 1307.4, 653.7, 163.4),  # data sheet 2023
)


@dataclass(frozen=True)
class Utilisation:
    """What training one image takes, in FLOP, and what one device can do, in FLOP/s."""

    flops_per_image: int
    peak: float

    def of(self, images_per_second: float) -> float:
        """MFU of one device that trains so many images a second, in [0, 1]."""
        return images_per_second * self.flops_per_image / self.peak


def utilisation(
    model: nn.Module, image: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Utilisation | None:
    """The utilisation of `device` by `model`, which multiplies in `dtype`; None where the peak is not known.

    Args:
        image: (C, H, W) of one image.
    """
    peak = peak_of(device, dtype)
    return None if peak is None else Utilisation(training_flops(model, image), peak)


def training_flops(model: nn.Module, image: tuple[int, ...]) -> int:
    """FLOP of the matrix products of one forward and backward pass over one image (C, H, W), 2 a multiply-add.

    Counted on shapes alone. What is not trained has no gradient to count; what is computed twice to save memory
    counts once.
    """
    copy = deepcopy(model).to("meta").train()
    counter: Any = FlopCounterMode(display=False)
    with counter:
        copy(torch.empty(1, *image, device="meta")).sum().backward()
    return int(counter.get_total_flops())


def peak_of(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak rate of `device` for matrix products in `dtype`, in FLOP/s; None where it is not known.

    A processor's is never known: it depends on clocks that depend on what else runs.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for pattern, half, tf32, single in PEAKS:
        if re.fullmatch(pattern, name):
            return 1e12 * (half if dtype.itemsize == 2 else tf32 if _multiplies_tf32() else single)
    return None


def _multiplies_tf32() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


class Norms:
    """Global norms of the parameters and of their last update, for the updates that are shown and no others.

    Around such an update the optimizer's hooks keep one copy of the parameters; at all others they return at once, so
    these cost neither memory nor time. Nothing is read from the device before `read`.

    Args:
        state: its step is the number of updates before the one that the optimizer makes.
        every: numbers of updates between those that are shown, 0 for none; the last of an epoch always is.
    """

    def __init__(self, optimizer: Optimizer, state: State, *every: int) -> None:
        self._parameters: list[Tensor] = list(trainable(optimizer))
        self._state, self._every = state, [period for period in every if period]
        self._before: list[Tensor] = []
        self._measured_at, self._norms = -1, torch.zeros(2)
        optimizer.register_step_pre_hook(lambda *_: self._keep())
        optimizer.register_step_post_hook(lambda *_: self._measure())

    def read(self, step: int) -> tuple[float, float]:
        """Of the parameters, and of the update: those of update number `step`, NaN where it was not measured."""
        if step != self._measured_at:
            return math.nan, math.nan
        parameters, update = self._norms.tolist()
        return parameters, update

    def state_dict(self) -> dict[str, Any]:
        """The norms of the last update that was shown, and its number."""
        return {"measured_at": self._measured_at, "norms": self._norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        measured_at, norms = int(state["measured_at"]), state["norms"]
        if norms.shape != (2,) or not norms.is_floating_point():
            raise ValueError(f"the norms of an update are {tuple(norms.shape)} {norms.dtype}")
        self._measured_at, self._norms = measured_at, norms

    def _is_due(self) -> bool:
        step = self._state.step + 1
        return step == self._state.epoch_end or any(step % period == 0 for period in self._every)

    @torch.no_grad()
    def _keep(self) -> None:
        if self._is_due():
            self._before = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def _measure(self) -> None:
        if not self._before:
            return
        moved, self._before = self._before, []
        torch._foreach_sub_(moved, self._parameters)
        self._norms = torch.stack([get_total_norm(self._parameters), get_total_norm(moved)])
        self._measured_at = self._state.step + 1


_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Instruments:
    """What a run is measured with, apart from its own steps.

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


class StepWindow:
    """Collects steps without touching the device; `read` waits for the last one and starts again.

    Args:
        state: whose clock is read.
    """

    def __init__(self, state: State, instruments: Instruments = ON_ONE_CPU) -> None:
        self._state, self._clock, self._instruments = state, state.clock, instruments
        self._steps: list[StepMetrics] = []
        self._before = 0  # steps before the run was stopped, which took no time of this process
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
        """Continue from `state_dict()`. Images that were counted before are not part of the speed."""
        measured = [state[name].to(self._instruments.device) for name in MEASURED] if state else []
        if any(column.ndim != 1 or column.is_complex() for column in measured):
            raise ValueError("the measurements of the last steps are not a column of numbers")
        columns = [column.unbind() for column in measured]
        self._steps = [StepMetrics._make((*values, 0)) for values in zip(*columns, strict=True)]
        self._before = len(self._steps)

    def read(self) -> Reading:
        """The numbers of the steps since the last reading, with one transfer from the device."""
        rows = [torch.stack([getattr(step, name) for step in self._steps]) for name in ("loss", "grad_norm")]
        losses, norms = torch.stack(rows).tolist()  # waits here
        seconds = max(self._clock.training - self._training, 1e-9)
        waited = self._clock.waiting - self._waiting
        finite = [loss for loss, norm in zip(losses, norms, strict=True) if math.isfinite(norm)]
        images = sum(step.images for step in self._steps)  # of this process, that is, of one device
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
    """The most memory used so far, in bytes: the accelerator's by tensors, or this process's in RAM; NaN if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = peak_resident_memory()
    return math.nan if peak is None else float(peak)


WARM_UP_STEPS = 5  # the first batches of a run wait for the workers to start
WINDOW, MOST_WAITING = 15.0, 0.5  # seconds of training, and the share of them


class DataWait(Callback):
    """Notes where more than `MOST_WAITING` of a `WINDOW` of training was spent waiting for the next batch.

    Args:
        advice: what can be done about it.
        processes: how many share the work, each with as many images.
    """

    def __init__(self, advice: str, note: Callable[[str], None], *, processes: int = 1) -> None:
        self._advice, self._note, self._processes = advice, note, processes
        self._reported = False
        self._steps = self._images = 0
        self._training = self._waiting = 0.0

    def on_step(self, state: State, metrics: StepMetrics, /) -> None:
        self._steps += 1
        if self._reported or self._steps < WARM_UP_STEPS:
            return
        clock = state.clock
        if self._steps == WARM_UP_STEPS:
            self._images, self._training, self._waiting = 0, clock.training, clock.waiting
            return
        self._images += metrics.images * self._processes
        training, waiting = clock.training - self._training, clock.waiting - self._waiting
        if training < WINDOW:
            return
        if waiting > MOST_WAITING * training:
            self._reported = True
            self._note(
                f"reading images is the bottleneck: {waiting / training:.0%} of the last {training:.0f} s were spent "
                f"waiting for data ({self._images / training:,.0f} images/s); {self._advice}"
            )
        self._steps = WARM_UP_STEPS - 1  # the next window begins with the next step
