"""The training step: one optimizer update from a few batches, without waiting for the device."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from t2t_vit.training.ema import Ema
from t2t_vit.training.mixed_precision import LossScaler, WorkingCopy
from t2t_vit.training.optimizer import can_skip_on_device, trainable
from t2t_vit.training.randomness import SampleNumbers
from t2t_vit.training.teacher import Guidance, Loss

Batch = tuple[Tensor, Tensor]


class StepMetrics(NamedTuple):
    """What a step says of itself; the tensors are () on the device, and reading one waits for the step.

    loss       what was minimised: its mean over the step's images, of all processes
    grad_norm  global norm of the mean gradient before clipping, unscaled
    skipped    true where the gradient was not finite, so that no weight moved
    scale      the loss scale that the step was taken with
    images     images of this process
    """

    loss: Tensor
    grad_norm: Tensor
    skipped: Tensor
    scale: Tensor
    images: int


class TrainStep:
    """`step(batches)` moves the weights once, by the gradient averaged over `accumulation` batches.

    Args:
        model: what is called: the network itself, compiled, or wrapped for several processes.
        scaler: the loss scale; its default does not scale.
        ema: the average that follows each update.
        accumulation: batches of one update.
        clip_norm: the largest global norm of the gradient; None does not clip.
        autocast: makes the context of each forward pass.
        mean: averages a tensor over the processes.
        loss: what is minimised, of logits in float32 and targets.
        distillation: the teacher whose answers are learned from too; it makes the loss another one.
        copy: what `model` is made of where it is not the network whose weights the optimizer moves.
        numbers: tells the network which samples come; without it, what it drops comes from torch's own generator.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        scaler: LossScaler,
        ema: Ema | None = None,
        accumulation: int = 1,
        clip_norm: float | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        mean: Callable[[Tensor], Tensor] | None = None,
        loss: Loss = cross_entropy,
        distillation: Guidance | None = None,
        copy: WorkingCopy | None = None,
        numbers: SampleNumbers | None = None,
    ) -> None:
        self.model, self.optimizer, self.scaler, self.ema = model, optimizer, scaler, ema
        self.accumulation, self.clip_norm = accumulation, clip_norm
        self.autocast, self.mean, self.loss = autocast, mean, loss
        self.distillation, self.copy, self.numbers = distillation, copy, numbers
        self._parameters = trainable(optimizer)

    def __call__(self, batches: Iterable[Batch], step: int = 0) -> StepMetrics:
        """Update number `step`, from exactly `accumulation` batches: images (B, C, H, W), targets (B,) or (B, K)."""
        losses: list[Tensor] = []
        count = 0
        if self.copy is not None:
            self.copy.refresh()
        for images, targets in batches:
            if self.numbers is not None:
                self.numbers(images, step, part=len(losses))
            with self._shares_gradient(last=len(losses) + 1 == self.accumulation):
                losses.append(self._backward(images, targets, step, len(losses)))  # ()
            count += len(images)
        if len(losses) != self.accumulation:
            raise RuntimeError(
                f"a step of {self.accumulation} batches got {len(losses)}: the loader is shorter than its len()"
            )
        scale = self.scaler.scale
        norm = self._update()  # ()
        if self.ema is not None:
            self.ema.update(norm.isfinite())
        loss = torch.stack(losses).mean()
        return StepMetrics(self.mean(loss) if self.mean else loss, norm, ~norm.isfinite(), scale, count)

    def _backward(self, images: Tensor, targets: Tensor, step: int, part: int) -> Tensor:
        loss_of = self.loss if self.distillation is None else self.distillation.about(images, self.loss, step, part)
        with self.autocast():
            logits = self.model(images)  # (B, K), or what the distillation's loss is of
        loss = loss_of(logits.float(), targets)  # () in float32, hard or soft targets
        torch.autograd.backward(loss * (self.scaler.scale / self.accumulation))
        return loss.detach()

    @torch.no_grad()
    def _update(self) -> Tensor:
        """Unscale, clip and step, or leave everything as it is where the gradient is not finite."""
        if self.copy is not None:
            self.copy.hand_over()
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = get_total_norm(gradients) / self.scaler.scale  # ()
        if self.clip_norm is not None:
            shrink = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, shrink / self.scaler.scale)
        elif not self.scaler.is_identity:
            torch._foreach_mul_(gradients, 1.0 / self.scaler.scale)
        finite = norm.isfinite()
        self._step_where(finite)
        self.scaler.update(finite)
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _step_where(self, finite: Tensor) -> None:
        if can_skip_on_device(self.optimizer):
            # torch's fused kernels look at found_inf on the device: 1 leaves weights and moments untouched.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif finite:  # the host has to read it
            self.optimizer.step()

    def _shares_gradient(self, *, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients once an update, in the backward pass of its last batch."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()
