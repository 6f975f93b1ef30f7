"""Exact metrics: every image counts once, whatever the batch size and the number of processes."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from t2t_vit.errors import UserError


@dataclass(frozen=True)
class Metrics:
    """What one evaluation found.

    loss         mean cross-entropy, without smoothing, in nats
    top1, top5   shares of images whose class is the first, or among the first min(5, K), in [0, 1]
    count        images, over all processes
    class_top1, class_count   images of each class that were right, and in all; empty unless asked for
    """

    loss: float
    top1: float
    top5: float
    count: int
    class_top1: tuple[int, ...] = ()
    class_count: tuple[int, ...] = ()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    reduce: Callable[[Tensor], Tensor] | None = None,
    classes: int = 0,
) -> Metrics:
    """Run `model` in eval mode over `batches` and count; its mode is restored.

    Nothing is read from the device before the last batch.

    Args:
        batches: images (B, C, H, W) and class numbers (B,), on the model's device.
        autocast: makes the context of each forward pass.
        reduce: adds a tensor up over the processes. Each process brings its own share of the images, none at
            all if need be; it is called once, after the last batch, so that uneven shares cannot hang.
        classes: how many classes to count one by one as well; 0 is none.

    Raises:
        UserError: there is no image in any share.
    """
    counter = Counter(counting_device(model), classes)
    was_training = model.training
    model.eval()
    try:
        for images, targets in batches:  # (B, C, H, W), (B,)
            with autocast():
                logits = model(images)  # (B, K)
            counter.add(logits.float(), targets)
    finally:
        model.train(was_training)
    return counter.metrics(reduce)


class Counter:
    """Sums over images in float64, which holds every count exactly, on the device until `metrics` is called."""

    def __init__(self, device: torch.device, classes: int = 0) -> None:
        self._classes = classes
        # loss, top1, top5, count, then (right, all) of each class
        self._sums = torch.zeros(4 + 2 * classes, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Count one batch: logits (B, K), class numbers (B,)."""
        rank = ranks(logits, targets)  # (B,)
        losses = cross_entropy(logits, targets, reduction="none")  # (B,)
        columns = torch.stack([losses, rank < 1, rank < 5, torch.ones_like(losses)])  # (4, B)
        self._sums[:4] += columns.to(self._sums).sum(1)
        if self._classes:
            members = torch.nn.functional.one_hot(targets, self._classes)  # (B, classes)
            right = (members * (rank < 1)[:, None]).sum(0)  # an index of booleans would wait for the device
            self._sums[4:] += torch.stack([right, members.sum(0)], 1).flatten().to(self._sums)

    def metrics(self, reduce: Callable[[Tensor], Tensor] | None = None) -> Metrics:
        """The means over all images; `reduce` adds up over the processes first."""
        sums = self._sums if reduce is None else reduce(self._sums)
        loss, top1, top5, count, *by_class = sums.tolist()
        if count == 0:
            raise UserError("there is nothing to evaluate: the evaluation set holds no image")
        pairs = [int(number) for number in by_class]
        return Metrics(loss / count, top1 / count, top5 / count, int(count), tuple(pairs[::2]), tuple(pairs[1::2]))


def ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """How many classes come before the right one, (B,), for logits (B, K) and class numbers (B,).

    Between equal logits the lower class number comes first, as in argmax, so the answer is the same on every
    device; a row that holds a NaN is wrong.
    """
    own = logits.gather(1, targets[:, None])  # (B, 1)
    numbers = torch.arange(logits.shape[1], device=logits.device)  # (K,)
    before = (logits > own) | ((logits == own) & (numbers < targets[:, None]))  # (B, K)
    return before.sum(1).masked_fill(logits.isnan().any(1), torch.iinfo(torch.int64).max)


def counting_device(model: nn.Module) -> torch.device:
    """Where float64 sums are kept: the model's device, or the CPU where that has no float64."""
    first = next(model.parameters(), None)
    # Apple's GPUs have no float64.
    return torch.device("cpu") if first is None or first.device.type == "mps" else first.device
