import pytest
import torch

from t2t_vit.bench.memory import growth, peak

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
