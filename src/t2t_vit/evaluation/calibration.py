"""Whether a network is right as often as it says it is."""

from dataclasses import dataclass

import torch

from t2t_vit.evaluation.outcomes import Outcomes

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
