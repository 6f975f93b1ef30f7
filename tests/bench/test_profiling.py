"""Seconds, their spread over rounds, and memory."""

import time

import pytest
import torch

from t2t_vit.bench.profiling import Laps, Spread, growth, in_turn, peak, rounds

CPU = torch.device("cpu")


def test_a_spread_is_the_median_between_the_least_and_the_greatest():
    assert Spread.of([5.0, 1.0, 2.0]).to_dict() == {"median": 2.0, "low": 1.0, "high": 5.0}


def test_laps_add_up_to_the_time_that_passed():
    laps = Laps(CPU)
    start = time.perf_counter()
    laps.begin()
    for _ in range(2):
        time.sleep(0.02)
        laps.lap("long")
        time.sleep(0.005)
        laps.lap("short")
    found = laps.seconds()
    assert sum(found.values()) <= time.perf_counter() - start
    assert found["long"] >= 0.04
    assert found["short"] >= 0.01
    assert found["long"] > found["short"]
    assert laps.seconds() == {}


def test_what_lies_before_a_beginning_does_not_count():
    laps = Laps(CPU)
    laps.begin()
    laps.lap("first")
    time.sleep(0.03)
    laps.begin()
    laps.lap("second")
    assert max(laps.seconds().values()) < 0.02


def test_the_first_rounds_do_not_count():
    values = iter(range(10))
    assert rounds(lambda: {"number": next(values)}, repeats=3, warm_up=4) == {"number": [4, 5, 6]}


def test_contestants_take_turns():
    order: list[str] = []
    seconds = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, CPU, repeats=2, warm_up=1)
    assert "".join(order) == "ababab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.gpu
def test_laps_on_a_gpu_measure_its_work_not_the_launch():
    device = torch.device("cuda")
    left = torch.randn(8192, 8192, device=device)
    torch.cuda.synchronize()
    laps = Laps(device)
    start = time.perf_counter()
    laps.begin()
    for _ in range(10):
        left @ left
    laps.lap("products")
    launched = time.perf_counter() - start
    assert laps.seconds()["products"] > 2 * launched


MEGABYTE = 1_000_000


def test_growth_sees_what_was_there_in_between():
    def work() -> None:
        torch.ones(16 * MEGABYTE).add_(1)  # 64 MB

    assert 50 * MEGABYTE < growth(work) < 200 * MEGABYTE


def test_nothing_takes_next_to_nothing():
    assert growth(lambda: None) < 20 * MEGABYTE


def test_peak_of_a_processor_is_growth():
    found = peak(lambda: torch.ones(16 * MEGABYTE).add_(1), torch.device("cpu"))
    assert found is not None
    assert found > 50 * MEGABYTE


def test_the_watch_ends_with_the_work_that_fails():
    def fail() -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        growth(fail)


@pytest.mark.gpu
def test_peak_of_a_gpu_is_the_allocators():
    device = torch.device("cuda")
    assert peak(lambda: torch.ones(16 * 2**20, device=device), device) == 64 * 2**20
