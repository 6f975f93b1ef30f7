"""One answer an image, and what follows from them: scores of each class, confusions and calibration."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t2t_vit.evaluation.metrics import counting_device, ranks

NO_ANSWER = -1
_SEEN, _TARGET, _PREDICTED, _CONFIDENCE, _LOSS, _RANK = range(6)


@dataclass(frozen=True)
class Outcomes:
    """The answers to the N images that could be read, in the order of their set, on the CPU.

    target       (N,) int64
    predicted    (N,) int64, `NO_ANSWER` where the logits held a NaN
    confidence   (N,) float64, the probability of what was predicted; 0 where there is no answer
    loss         (N,) float64, cross-entropy in nats
    rank         (N,) int64, how many classes came before the right one
    number       (N,) int64, which image of the set it is; None: image i is number i
    """

    target: Tensor
    predicted: Tensor
    confidence: Tensor
    loss: Tensor
    rank: Tensor
    number: Tensor | None = None

    def number_of(self, row: int) -> int:
        """Which image of the set row `row` is."""
        return row if self.number is None else int(self.number[row])

    def __len__(self) -> int:
        return len(self.target)

    @property
    def right(self) -> Tensor:
        """(N,) bool."""
        return self.rank < 1


class OutcomeTable:
    """The answers of one process to its share of the images, as they arrive.

    Six numbers an image are kept, on the device until the end: 2.4 MB for 50,000 images, whatever the class count.
    Several processes each fill in their own images and add the tables up, so that nothing is counted twice.

    Args:
        numbers: of this process's images, in their order, among all `total` ones; may grow with the batches.
        device: where the table is kept, see `counting_device`.
    """

    def __init__(self, numbers: Sequence[int], total: int, device: torch.device) -> None:
        self._numbers, self._done = numbers, 0
        self._table = torch.zeros(total, 6, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, targets: Tensor) -> None:
        """The answers to the next images: logits (B, K), class numbers (B,)."""
        device = self._table.device
        rows = torch.tensor(self._numbers[self._done : self._done + len(logits)], device=device)
        self._table[rows] += _rows(logits.to(device, torch.float64), targets.to(device))
        self._done += len(logits)

    def outcomes(self, reduce: Callable[[Tensor], Tensor] | None = None, unreadable: Collection[int] = ()) -> Outcomes:
        """The answers to all images; `reduce` adds a tensor up over the processes.

        Args:
            unreadable: numbers of this process's images that gave no answer, since they cannot be read.

        Raises:
            RuntimeError: the shares and the unreadable images are not all images, each once.
        """
        self._table[list(unreadable), _SEEN] -= 1
        table = (self._table if reduce is None else reduce(self._table)).cpu()
        if not bool((table[:, _SEEN].abs() == 1).all()):
            raise RuntimeError("the shares of the processes are not all images, each once")
        number = (table[:, _SEEN] == 1).nonzero()[:, 0]
        columns = [column.contiguous() for column in table[number].unbind(1)]
        return Outcomes(
            columns[_TARGET].long(),
            columns[_PREDICTED].long(),
            columns[_CONFIDENCE],
            columns[_LOSS],
            columns[_RANK].long(),
            number,
        )


@torch.no_grad()
def collect(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    numbers: Sequence[int],
    total: int,
    *,
    unreadable: Collection[int] = (),
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Outcomes:
    """Run `model` in eval mode over `batches`; its mode is restored.

    Args:
        batches: images (B, C, H, W) and class numbers (B,), on the model's device: this process's share.
        numbers: of these images, in their order, among all `total` ones; may grow with the batches.
        unreadable: numbers of this share that gave no image; looked at after the last batch.
        reduce: adds a tensor up over the processes; called once, after the last batch.

    Raises:
        RuntimeError: the shares and the unreadable images are not all images, each once.
    """
    table = OutcomeTable(numbers, total, counting_device(model))
    was_training = model.training
    model.eval()
    try:
        for images, targets in batches:
            with autocast():
                logits = model(images)  # (B, K)
            table.add(logits, targets)
    finally:
        model.train(was_training)
    return table.outcomes(reduce, unreadable)


def _rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits (B, K) in float64 and class numbers (B,) -> (B, 6)."""
    unclear = logits.isnan().any(1)  # (B,)
    logs = logits.log_softmax(1)
    predicted = logits.argmax(1)  # the first of equal ones, as `ranks` has it
    confidence = logs.gather(1, predicted[:, None])[:, 0].exp()
    rank = ranks(logits, targets).clamp(max=logits.shape[1]).to(logits)
    columns = {
        _SEEN: torch.ones_like(confidence),
        _TARGET: targets.to(logits),
        _PREDICTED: predicted.to(logits).masked_fill(unclear, NO_ANSWER),
        _CONFIDENCE: confidence.nan_to_num(1.0).masked_fill(unclear, 0.0),  # 1: an infinite logit
        _LOSS: -logs.gather(1, targets[:, None])[:, 0],
        _RANK: rank,
    }
    return torch.stack([columns[name] for name in sorted(columns)], 1)


@dataclass(frozen=True)
class ClassScore:
    """One class: how many images it has, how often it was predicted, and how often rightly.

    precision  right / predicted; recall  right / count, the accuracy of the class; f1  their harmonic mean.
    Where nothing can be divided they are 0, as is customary.
    """

    number: int
    count: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.count if self.count else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.count + self.predicted) if self.right else 0.0


def class_scores(outcomes: Outcomes, classes: int) -> list[ClassScore]:
    """A score for each class, by its number."""
    columns = [
        torch.bincount(outcomes.target, minlength=classes),
        torch.bincount(outcomes.predicted[outcomes.predicted != NO_ANSWER], minlength=classes),
        torch.bincount(outcomes.target[outcomes.right], minlength=classes),
    ]
    return [ClassScore(number, *row) for number, row in enumerate(torch.stack(columns, 1).tolist())]


def confusion_matrix(outcomes: Outcomes, classes: int) -> Tensor:
    """(classes, classes) int64: images of the row's class that were taken for the column's."""
    known = outcomes.predicted != NO_ANSWER
    pairs = outcomes.target[known] * classes + outcomes.predicted[known]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def top_confusions(outcomes: Outcomes, classes: int, most: int) -> list[tuple[int, int, int]]:
    """The commonest (true class, predicted class, images) that are mistakes, commonest first, at most `most`."""
    wrong = ~outcomes.right & (outcomes.predicted != NO_ANSWER)
    pairs, counts = torch.unique(outcomes.target[wrong] * classes + outcomes.predicted[wrong], return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:most]
    return [
        (pair // classes, pair % classes, count)
        for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]


def confident_mistakes(outcomes: Outcomes, most: int) -> list[int]:
    """Rows of the wrong answers that were given with the most confidence, the most confident first."""
    wrong = (~outcomes.right & (outcomes.predicted != NO_ANSWER)).nonzero()[:, 0]
    order = outcomes.confidence[wrong].argsort(descending=True, stable=True)[:most]
    return wrong[order].tolist()


BINS = 15


@dataclass(frozen=True)
class Bin:
    """Answers with a confidence in (low, high]: how many, how sure on average, and which share was right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """The reliability of the answers.

    ece    expected calibration error: the mean over images of |accuracy - confidence| of their bin, in [0, 1]
    mce    the largest |accuracy - confidence| of a bin that is not empty
    bins   of equal width; empty ones have a count of 0
    """

    ece: float
    mce: float
    bins: tuple[Bin, ...]


def calibration(outcomes: Outcomes, bins: int = BINS) -> Calibration:
    """Expected calibration error over `bins` bins of equal width (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Bin m of M holds the confidences in ((m - 1) / M, m / M]; 0 is in the first. Sums are float64.
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = (torch.bucketize(outcomes.confidence, edges) - 1).clamp(0, bins - 1)  # (N,)
    count = torch.bincount(index, minlength=bins).double()
    sure = torch.bincount(index, outcomes.confidence, minlength=bins)
    right = torch.bincount(index, outcomes.right.double(), minlength=bins)
    gaps = (right - sure).abs()  # (M,), |accuracy - confidence| times the count
    filled = count.clamp(min=1)
    rows = zip(
        edges[:-1].tolist(),
        edges[1:].tolist(),
        count.long().tolist(),
        (sure / filled).tolist(),
        (right / filled).tolist(),
        strict=True,
    )
    return Calibration(
        (gaps.sum() / max(1, len(outcomes))).item(),
        (gaps / filled).max().item(),
        tuple(Bin(*row) for row in rows),
    )
