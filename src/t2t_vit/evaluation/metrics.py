"""Exact metrics: every image counts once, whatever the batch size and the number of processes."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from t2t_vit.errors import UserError

SCORES = ("loss", "top1", "top5", "balanced_accuracy", "macro_f1")  # what an evaluation is shown by
BEST_BY = ("top1", "loss", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True)
class Metrics:
    """What one evaluation found.

    loss         mean cross-entropy, without smoothing, in nats
    top1, top5   shares of images whose class is the first, or among the first min(5, K), in [0, 1]
    count        images, over all processes
    balanced_accuracy   mean recall of the classes that have images, in [0, 1]; NaN unless classes were counted
    macro_f1     mean F1 of the classes that have images or were predicted, in [0, 1]; NaN unless classes were counted
    class_top1, class_count, class_predicted   images of each class that were right, that there are, and that were
                 taken for it; empty unless asked for
    """

    loss: float
    top1: float
    top5: float
    count: int
    balanced_accuracy: float = math.nan
    macro_f1: float = math.nan
    class_top1: tuple[int, ...] = ()
    class_count: tuple[int, ...] = ()
    class_predicted: tuple[int, ...] = ()

    def numbers(self) -> dict[str, float | int]:
        """The numbers without those of single classes, and without what is not known."""
        always = {name: getattr(self, name) for name in ("loss", "top1", "top5", "count")}
        counted = {name: getattr(self, name) for name in ("balanced_accuracy", "macro_f1")}
        return always | {name: value for name, value in counted.items() if not math.isnan(value)}

    def score(self, best_by: str) -> float:
        """How good this is by one of `BEST_BY`: the larger the better, -inf where it is not known or not finite."""
        value: float = getattr(self, best_by)
        signed = -value if best_by == "loss" else value
        return signed if math.isfinite(signed) else -math.inf


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    reduce: Callable[[Tensor], Tensor] | None = None,
    classes: int = 0,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Metrics:
    """Run `model` in eval mode over `batches` and count; its mode is restored.

    Nothing is read from the device before the last batch.

    Args:
        batches: images (B, C, H, W) and class numbers (B,), on the model's device.
        autocast: makes the context of each forward pass.
        reduce: adds a tensor up over the processes. Each process brings its own share of the images, none at
            all if need be; it is called once, after the last batch, so that uneven shares cannot hang.
        classes: how many logits there are, to count the classes one by one as well; 0 does not.
        observe: also gets the logits, in float32, and the class numbers of each batch.

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
            if observe is not None:
                observe(logits.float(), targets)
    finally:
        model.train(was_training)
    return counter.metrics(reduce)


class Counter:
    """Sums over images in float64, which holds every count exactly, on the device until `metrics` is called."""

    def __init__(self, device: torch.device, classes: int = 0) -> None:
        self._classes = classes
        # loss, top1, top5, count, then right, all and predicted of each class
        self._sums = torch.zeros(4 + 3 * classes, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Count one batch: logits (B, K), class numbers (B,)."""
        rank = ranks(logits, targets)  # (B,)
        losses = cross_entropy(logits, targets, reduction="none")  # (B,)
        columns = torch.stack([losses, rank < 1, rank < 5, torch.ones_like(losses)])  # (4, B)
        self._sums[:4] += columns.to(self._sums).sum(1)
        if self._classes:
            right, of_class, predicted = self._sums[4:].view(3, self._classes)
            answered = ~logits.isnan().any(1)  # (B,)
            # Weights of 0 in place of an index of booleans, which would wait for the device.
            right.index_add_(0, targets.to(right.device), (rank < 1).to(right))
            of_class.index_add_(0, targets.to(right.device), torch.ones_like(losses).to(right))
            predicted.index_add_(0, logits.argmax(1).to(right.device), answered.to(right))

    def metrics(self, reduce: Callable[[Tensor], Tensor] | None = None) -> Metrics:
        """The means over all images; `reduce` adds up over the processes first."""
        sums = self._sums if reduce is None else reduce(self._sums)
        loss, top1, top5, count = sums[:4].tolist()
        if count == 0:
            raise UserError("there is nothing to evaluate: the evaluation set holds no image")
        means = (loss / count, top1 / count, top5 / count, int(count))
        if not self._classes:
            return Metrics(*means)
        rows = [tuple(map(int, row)) for row in sums[4:].view(3, self._classes).tolist()]
        return Metrics(*means, balanced_accuracy(rows[0], rows[1]), macro_f1(*rows), *rows)


def balanced_accuracy(right: Sequence[int], of_class: Sequence[int]) -> float:
    """Mean of right / images over the classes that have images."""
    recalls = [hits / total for hits, total in zip(right, of_class, strict=True) if total]
    return math.fsum(recalls) / len(recalls)


def macro_f1(right: Sequence[int], of_class: Sequence[int], predicted: Sequence[int]) -> float:
    """Mean of 2 right / (images + predicted) over the classes that have images or were predicted."""
    rows = zip(right, of_class, predicted, strict=True)
    scores = [2 * hits / (total + taken) for hits, total, taken in rows if total + taken]
    return math.fsum(scores) / len(scores)


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
