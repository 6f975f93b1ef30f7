"""How each class fares, and with which other one it is confused."""

from dataclasses import dataclass

import torch
from torch import Tensor

from t2t_vit.evaluation.outcomes import NO_ANSWER, Outcomes


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
    """Numbers of the wrong answers that were given with the most confidence, the most confident first."""
    wrong = (~outcomes.right & (outcomes.predicted != NO_ANSWER)).nonzero()[:, 0]
    order = outcomes.confidence[wrong].argsort(descending=True, stable=True)[:most]
    return wrong[order].tolist()
