"""Whether a difference of two accuracies is more than chance, by the images or by the seeds.

on the same images     McNemar's exact test (1947), and a bootstrap interval (Efron 1979) of the difference
over several seeds     Welch's t-test and interval (1947)
several comparisons    Holm's correction (1979)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from t2t_vit.notes import counted

LEVEL = 0.95  # of every interval
DRAWS = 10_000  # of a bootstrap


@dataclass(frozen=True)
class Difference:
    """How much larger the second accuracy is than the first, in [-1, 1].

    low, high  its 95 % interval
    p          of the test that there is none
    by         what was tested, and on what, in words
    """

    value: float
    low: float
    high: float
    p: float
    by: str


def by_images(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """From the accuracy of each of N images, (N,) and (N,), in [0, 1]: 0 or 1 of one run, a mean over several.

    The test is McNemar's for two single runs; for means it is the normal approximation of the paired mean.
    """
    gain = second - first  # (N,)
    low, high = bootstrap_interval(gain)
    images = f"the same {counted(len(gain), 'image')}"
    if np.isin(gain, (-1, 0, 1)).all():
        p = mcnemar(int((gain < 0).sum()), int((gain > 0).sum()))
        return Difference(float(gain.mean()), low, high, p, f"McNemar's exact test on {images}")
    error = float(gain.std(ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    p = math.erfc(abs(float(gain.mean())) / error / math.sqrt(2)) if error > 0 else 1.0
    return Difference(float(gain.mean()), low, high, p, f"paired z-test of the means on {images}")


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value, from the images that only the first and only the second answers rightly.

    Under equal accuracies each such image is of either kind with probability 1/2.
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    term = total = 1
    for index in range(fewer):
        term = term * (count - index) // (index + 1)
        total += term
    return min(1.0, 2 * total / 2**count)


def bootstrap_interval(gain: NDArray[np.float64], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of `gain` (N,), over images that are drawn with replacement.

    How often each value of `gain` is drawn follows a multinomial distribution, which is what resampling comes to.
    """
    values, counts = np.unique(gain, return_counts=True)
    shares = counts / len(gain)
    means = np.random.default_rng(seed).multinomial(len(gain), shares, size=draws) @ values / len(gain)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def by_seeds(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """From the accuracies of several runs each; None where there are fewer than two, or the spread of both is zero."""
    if min(len(first), len(second)) < 2:
        return None
    parts = [stdev(values) ** 2 / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return None
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    value = fmean(second) - fmean(first)
    reach = t_quantile(LEVEL, freedom) * error
    by = f"Welch's t-test over {len(first)} and {len(second)} seeds"
    return Difference(value, value - reach, value + reach, t_two_sided(value / error, freedom), by)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: 0.05 of these is 0.05 for the whole family."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def t_two_sided(t: float, freedom: float) -> float:
    """P(|T| >= |t|) of Student's distribution: I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + t^2)."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def t_quantile(level: float, freedom: float) -> float:
    """The t that |T| stays below with probability `level`."""
    low, high = 0.0, 1.0
    while t_two_sided(high, freedom) > 1 - level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, freedom) > 1 - level else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    # Evaluated backwards: after 200 terms nothing changes in the last bit for the x that come here.
    fraction = 1.0
    for term in range(200, 0, -1):
        m = term // 2
        if term % 2:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + factor / fraction
    return front / (a * fraction)
