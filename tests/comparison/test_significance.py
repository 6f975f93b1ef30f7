"""Tests and intervals, against values that were worked out by hand or stand in tables."""

import math

import numpy as np
import pytest

from t2t_vit.comparison.significance import (
    bootstrap_interval,
    by_images,
    by_seeds,
    holm,
    mcnemar,
    t_quantile,
    t_two_sided,
)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 1, 1.0),
        (1, 5, 14 / 64),  # 2 (1 + 6) / 2^6
        (5, 1, 14 / 64),
        (0, 10, 2 / 1024),
        (10, 25, 0.016673847800120715),
        (3000, 3200, 0.011488253770871584),  # scipy.stats.binomtest(3000, 6200)
    ],
)
def test_mcnemar(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062047), (2, 4.30265273), (2.7, 3.39214838), (4, 2.77644511), (30, 2.04227246)]
)
def test_quantiles_of_student(freedom: float, t: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(t, rel=1e-8)
    assert t_two_sided(t, freedom) == pytest.approx(0.05, rel=1e-7)
    assert t_two_sided(-t, freedom) == t_two_sided(t, freedom)


def test_one_degree_of_freedom_is_cauchy() -> None:
    for t in (0.0, 0.01, 1.0, 3.0, 50.0):
        assert t_two_sided(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-12)


def test_seeds_by_welch() -> None:
    found = by_seeds([0.9, 0.91, 0.905], [0.92, 0.925, 0.93])  # equal spreads: 4 degrees, error sqrt(2/3) / 200
    assert found is not None
    assert found.value == pytest.approx(0.02)
    reach = 2.7764451051977934 * math.sqrt(2 / 3) * 0.005
    assert (found.low, found.high) == pytest.approx((0.02 - reach, 0.02 + reach))
    assert found.p == pytest.approx(0.00804989310083741)
    assert found.by == "Welch's t-test over 3 and 3 seeds"
    swapped = by_seeds([0.92, 0.925, 0.93], [0.9, 0.91, 0.905])
    assert swapped is not None
    assert (swapped.value, swapped.low, swapped.p) == pytest.approx((-0.02, -found.high, found.p))


@pytest.mark.parametrize(("first", "second"), [([0.9], [0.8, 0.7]), ([0.9, 0.8], []), ([0.9, 0.9], [0.8, 0.8])])
def test_a_spread_that_is_not_known_gives_no_test(first: list[float], second: list[float]) -> None:
    assert by_seeds(first, second) is None


def test_the_interval_over_images_covers_as_often_as_it_says() -> None:
    """Of 400 data sets whose true difference is 0.04, the interval holds it in about 95 of 100."""
    rng = np.random.default_rng(1)
    covered = 0
    for number in range(400):
        gain = rng.choice([-1.0, 0.0, 1.0], size=500, p=[0.06, 0.84, 0.10])
        low, high = bootstrap_interval(gain, draws=1000, seed=number)
        covered += low <= 0.04 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_two_runs_on_the_same_images() -> None:
    first = np.array([1.0] * 80 + [1.0] * 5 + [0.0] * 15)
    second = np.array([1.0] * 80 + [0.0] * 5 + [1.0] * 15)
    found = by_images(first, second)
    assert found.value == pytest.approx(0.1)
    assert found.p == pytest.approx(mcnemar(5, 15))
    assert found.low < 0.1 < found.high
    assert found.by == "McNemar's exact test on the same 100 images"
    assert by_images(first, second) == found  # the draws are seeded
    same = by_images(first, first)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_means_over_seeds_on_the_same_images() -> None:
    first, second = np.array([0.5] * 50 + [0.0] * 50), np.array([1.0] * 30 + [0.5] * 20 + [0.0] * 50)
    found = by_images(first, second)
    gain = second - first
    z = 0.15 / (gain.std(ddof=1) / 10)
    assert found.p == pytest.approx(math.erfc(z / math.sqrt(2)))
    assert "z-test" in found.by


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
