"""The weighted loss against its definition."""

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from t2t_vit.training.loss import WeightedCrossEntropy

COUNTS = torch.tensor([90, 9, 1])


def smoothed(labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    return one_hot(labels, 3).float() * (1 - smoothing) + smoothing / 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_torchs_sum_with_a_weight_a_class(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 3), torch.randint(3, (50,))
    weights = 100 / (3 * COUNTS)
    each = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    loss = WeightedCrossEntropy(COUNTS, smoothing)(logits, smoothed(labels, smoothing))
    assert loss.item() == pytest.approx((weights[labels] * each).mean().item(), rel=1e-5)


def test_the_weight_of_a_class_is_its_own() -> None:
    weights = WeightedCrossEntropy(torch.tensor([8, 1, 4, 3])).weights
    assert weights.tolist() == pytest.approx([16 / (4 * n) for n in (8, 1, 4, 3)])
    assert weights.dtype == torch.float32


def test_equal_classes_weigh_nothing() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(20, 3), smoothed(torch.randint(3, (20,)), 0.2).roll(1, 0)
    loss = WeightedCrossEntropy(torch.tensor([7, 7, 7]), 0.2)(logits, targets)
    assert loss.item() == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-5)


def test_a_mixed_image_costs_the_mix_of_what_its_two_cost() -> None:
    torch.manual_seed(0)
    logits, loss = torch.randn(1, 3), WeightedCrossEntropy(COUNTS, 0.1)
    first, second = (smoothed(torch.tensor([label]), 0.1) for label in (0, 2))
    mixed = loss(logits, 0.3 * first + 0.7 * second)
    assert mixed.item() == pytest.approx((0.3 * loss(logits, first) + 0.7 * loss(logits, second)).item(), rel=1e-5)


def test_over_the_training_images_the_mean_weight_is_one_and_classes_weigh_alike() -> None:
    weights = WeightedCrossEntropy(COUNTS).weights
    assert (weights * COUNTS).sum().item() == pytest.approx(COUNTS.sum().item())
    assert torch.allclose(weights * COUNTS, (weights * COUNTS)[:1].expand(3))


def test_a_class_without_images_weighs_nothing_and_is_no_nan() -> None:
    weights = WeightedCrossEntropy(torch.tensor([5, 0, 5])).weights
    assert weights.isfinite().all()
    assert weights[1] == 0
