import pytest
import torch

from t2t_vit.bench import rates
from t2t_vit.bench.rates import Rates, product_rate, rates_of

CPU = torch.device("cpu")


def test_a_figure_is_work_over_the_median_time():
    found = Rates("bfloat16", datasheet=1000.0, measured=500.0, side=8).figure([1.0, 2.0, 4.0], flops=400)
    assert found["seconds"] == {"median": 2.0, "low": 1.0, "high": 4.0}
    assert found["flops_per_second"] == 200.0
    assert (found["mfu_datasheet"], found["mfu_measured"]) == (0.2, 0.4)


def test_without_a_data_sheet_there_is_no_share_of_it():
    assert Rates("float32", None, 500.0, 8).figure([1.0], 100)["mfu_datasheet"] is None


def test_a_processor_is_measured_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rates, "CPU_SIDES", (64, 128))
    found = rates_of(CPU, torch.float32)
    assert (found.dtype, found.datasheet) == ("float32", None)
    assert found.side in (64, 128)
    assert found.measured > 1e6


def test_the_product_does_not_take_long(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def slow(_device: torch.device, _dtype: torch.dtype, side: int, **_options: int) -> float:
        asked.append(side)
        return 2.0 * 1024**3 / 0.07  # a product of 1024 takes 0.07 s, one of 2048 took 0.56 s

    monkeypatch.setattr(rates, "product_rate", slow)
    assert rates_of(CPU, torch.float32).side == 1024
    assert max(asked) == 1024


def test_the_fastest_of_several_products_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rates, "in_turn", lambda *_, **__: {"": [2.0, 1.0, 4.0]})
    assert product_rate(CPU, torch.float32, side=8) == 2 * 8**3
