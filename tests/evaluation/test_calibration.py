import pytest
import torch

from t2t_vit.evaluation.outcomes import Outcomes, calibration


def answers(confidence: list[float], right: list[bool]) -> Outcomes:
    whole = torch.zeros(len(right), dtype=torch.int64)
    rank = (~torch.tensor(right)).long()
    sure = torch.tensor(confidence, dtype=torch.float64)
    return Outcomes(whole, rank, sure, torch.zeros_like(sure), rank)


def test_two_bins_by_hand():
    # (0, 0.5]: 0.25 and 0.35, one right; (0.5, 1]: 0.9 and 0.95, both right
    found = calibration(answers([0.25, 0.35, 0.9, 0.95], [False, True, True, True]), bins=2)
    assert found.ece == pytest.approx(0.5 * abs(0.3 - 0.5) + 0.5 * abs(0.925 - 1.0))
    assert found.mce == pytest.approx(0.2)
    assert [(each.low, each.high, each.count) for each in found.bins] == [(0.0, 0.5, 2), (0.5, 1.0, 2)]
    assert [each.confidence for each in found.bins] == pytest.approx([0.3, 0.925])
    assert [each.accuracy for each in found.bins] == pytest.approx([0.5, 1.0])


def test_the_case_of_torchmetrics_documentation():
    """multiclass_calibration_error of torchmetrics' docs: 3 bins, norm l1 -> 0.2000, norm max -> 0.2333."""
    logits = torch.tensor([[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]])
    sure, predicted = logits.max(1)
    right = (predicted == torch.tensor([0, 1, 2, 0])).tolist()
    found = calibration(answers(sure.double().tolist(), right), bins=3)
    assert found.ece == pytest.approx(0.2, abs=1e-6)
    assert found.mce == pytest.approx(0.2333, abs=1e-4)


def test_the_edges_belong_to_the_bin_below_and_zero_to_the_first():
    found = calibration(answers([0.0, 0.5, 1.0], [False, False, True]), bins=2)
    assert [each.count for each in found.bins] == [2, 1]


def test_perfect_and_hopeless():
    assert calibration(answers([1.0] * 5, [True] * 5)).ece == 0.0
    assert calibration(answers([1.0] * 5, [False] * 5)).ece == 1.0
    half = calibration(answers([0.5] * 10, [True, False] * 5))
    assert half.ece == pytest.approx(0.0, abs=1e-15)
    assert len(half.bins) == 15


def test_against_the_definition_written_out():
    generator = torch.Generator().manual_seed(0)
    sure = torch.rand(5000, generator=generator, dtype=torch.float64)
    right = torch.rand(5000, generator=generator, dtype=torch.float64) < sure**2
    expected = 0.0
    for low in range(15):
        inside = (sure > low / 15) & (sure <= (low + 1) / 15)
        if inside.any():
            gap = (right[inside].double().mean() - sure[inside].mean()).abs().item()
            expected += inside.sum().item() / 5000 * gap
    assert calibration(answers(sure.tolist(), right.tolist())).ece == pytest.approx(expected, rel=1e-12)
