"""Model FLOP utilisation, and a device that waits for its data."""

import pytest
import torch
from torch import nn

from t2t_vit.training import measurements
from t2t_vit.training.measurements import WARM_UP_STEPS, DataWait, Utilisation, peak_of, training_flops, utilisation
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics


def test_flops_of_a_linear_layer_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 3))
    # forward 2 * (12 * 5 + 5 * 3); backward the weights' gradients as much again, and the inner inputs' 2 * 5 * 3
    assert training_flops(model, (3, 2, 2)) == 2 * (2 * 60 + 3 * 15)
    assert next(model.parameters()).device.type == "cpu"


def test_what_is_frozen_costs_no_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 3))
    model[1].requires_grad_(False)
    assert training_flops(model, (3, 2, 2)) == 2 * (60 + 2 * 15)


def test_utilisation_is_arithmetic_over_peak():
    assert Utilisation(flops_per_image=27_700_000_000, peak=989e12).of(8000) == pytest.approx(0.224, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "dtype", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, "highest", 989e12),
        ("NVIDIA H100 80GB HBM3", torch.float16, "highest", 989e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, "highest", 67e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, "high", 494e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, "highest", 756e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, "highest", 312e12),
        ("NVIDIA A100 80GB PCIe", torch.bfloat16, "highest", 312e12),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, "highest", 165.2e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", torch.bfloat16, "highest", None),  # a slice is no whole one
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.bfloat16, "highest", None),
        ("Something new", torch.bfloat16, "highest", None),
    ],
)
def test_peaks_by_name(monkeypatch, name, dtype, precision, peak):
    monkeypatch.setattr(measurements.torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(measurements.torch, "get_float32_matmul_precision", lambda: precision)
    assert peak_of(torch.device("cuda"), dtype) == peak


def test_a_processor_has_no_known_peak():
    device = torch.device("cpu")
    assert peak_of(device, torch.bfloat16) is None
    assert utilisation(nn.Linear(3, 2), (3,), device, torch.float32) is None


class FakeClock:
    training = waiting = 0.0


def told(share: float, steps: int) -> list[str]:
    notes: list[str] = []
    state = State.begin(1000, epochs=1)
    state.clock = FakeClock()
    wait = DataWait("raise num_parallel_workers", notes.append, processes=2)
    zero = torch.tensor(0.0)
    for _ in range(steps):
        state.step += 1
        state.clock.training += 1.0
        state.clock.waiting += 1.0 if state.step <= WARM_UP_STEPS else share
        wait.on_step(state, StepMetrics(zero, zero, zero, zero, 8))
    return notes


def test_it_is_said_once_with_the_numbers():
    notes = told(0.75, 100)
    assert len(notes) == 1
    assert "75% of the last 15 s" in notes[0]
    assert "(16 images/s); raise num_parallel_workers" in notes[0]


def test_more_than_the_share_and_no_less():
    assert told(0.5, 100) == []
    assert len(told(0.51, 100)) == 1


def test_the_start_of_the_workers_and_a_short_wait_do_not_count():
    assert told(0.1, 100) == []
    assert told(0.75, 10) == []
