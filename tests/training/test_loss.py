"""The losses against their definitions."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from t2t_vit.training.loss import BinaryCrossEntropy, WeightedCrossEntropy

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


def test_binary_cross_entropy_by_hand() -> None:
    """Two images, two classes: logits of 0 answer one half, and log 3 three quarters."""
    logits = torch.tensor([[0.0, math.log(3)], [-math.log(3), 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.3, 0.7]])
    half, quarter, three_quarters = math.log(2), math.log(4), math.log(4 / 3)
    costs = [half, quarter, 0.3 * quarter + 0.7 * three_quarters, half]
    assert BinaryCrossEntropy()(logits, targets).item() == pytest.approx(sum(costs) / 4)
    costs = [half, quarter, three_quarters, half]  # of the mixed image, the second class is there and the first not
    assert BinaryCrossEntropy(0.5)(logits, targets).item() == pytest.approx(sum(costs) / 4)
    costs = [half, quarter, quarter, half]  # both are
    assert BinaryCrossEntropy(0.2)(logits, targets).item() == pytest.approx(sum(costs) / 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5])
def test_binary_cross_entropy_is_timms(threshold: float, smoothing: float) -> None:
    from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy

    torch.manual_seed(0)
    labels, keep = torch.randint(3, (50,)), torch.rand(50, 1)
    theirs = TimmBinaryCrossEntropy(smoothing, threshold or None)
    mixed = smoothed(labels, smoothing) * keep + smoothed(labels, smoothing).flip(0) * (1 - keep)
    for targets, given in ((smoothed(labels, smoothing), labels), (mixed, mixed)):
        ours, other = (torch.randn(50, 3, generator=torch.Generator().manual_seed(1), requires_grad=True) for _ in "ab")
        loss, expected = BinaryCrossEntropy(threshold)(ours, targets), theirs(other, given)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(ours.grad, other.grad)
