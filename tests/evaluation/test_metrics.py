import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Counter, Metrics, evaluate, ranks


def batches(images: torch.Tensor, targets: torch.Tensor, size: int):
    return list(zip(images.split(size), targets.split(size), strict=True))


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
    return model, torch.randn(101, 3, 2, 2), torch.randint(10, (101,))


def test_metrics_are_the_plain_definitions(problem):
    model, images, targets = problem
    metrics = evaluate(model, batches(images, targets, 7))
    logits = model(images).detach()
    assert metrics.loss == pytest.approx(cross_entropy(logits.double(), targets).item(), rel=1e-6)
    assert metrics.top1 == (logits.argmax(1) == targets).sum().item() / 101
    assert metrics.top5 == (logits.topk(5).indices == targets[:, None]).any(1).sum().item() / 101
    assert metrics.count == 101


@pytest.mark.parametrize("size", [1, 7, 64, 101])
def test_the_batch_size_does_not_matter(problem, size):
    model, images, targets = problem
    whole, parts = evaluate(model, [(images, targets)]), evaluate(model, batches(images, targets, size))
    assert (parts.top1, parts.top5, parts.count) == (whole.top1, whole.top5, whole.count)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-7)


def test_top5_of_fewer_than_five_classes_is_over_all():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    metrics = evaluate(model, [(torch.randn(8, 3, 2, 2), torch.randint(3, (8,)))])
    assert metrics.top5 == 1.0


def test_shares_of_any_length_add_up(problem):
    model, images, targets = problem
    whole = evaluate(model, [(images, targets)])
    sums: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sums.append(tensor)
        return tensor

    for share in (slice(0, 70), slice(70, 101)):
        evaluate(model, batches(images[share], targets[share], 16), reduce=keep)
    total = evaluate(model, [], reduce=lambda own: own + sums[0] + sums[1])  # this process has no image
    assert (total.top1, total.top5, total.count) == (whole.top1, whole.top5, whole.count)


def test_equal_logits_rank_by_class_number_and_nan_is_wrong():
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [math.nan, 2.0, 0.0]])
    assert ranks(logits, torch.tensor([0, 1, 1])).tolist()[:2] == [0, 1]
    counter = Counter(torch.device("cpu"))
    counter.add(logits, torch.tensor([0, 1, 1]))
    assert counter.metrics().top1 == pytest.approx(1 / 3)
    assert counter.metrics().top5 == pytest.approx(2 / 3)


def test_class_by_class(problem):
    model, images, targets = problem
    metrics = evaluate(model, batches(images, targets, 7), classes=10)
    assert sum(metrics.class_count) == 101
    assert sum(metrics.class_top1) == round(metrics.top1 * 101)
    assert metrics.class_count == tuple(torch.bincount(targets, minlength=10).tolist())
    right = targets[model(images).argmax(1) == targets]
    assert metrics.class_top1 == tuple(torch.bincount(right, minlength=10).tolist())


def test_the_mode_is_restored_also_after_an_error(problem):
    model, images, targets = problem
    model.train()
    evaluate(model, [(images, targets)])
    assert model.training
    with pytest.raises(RuntimeError):
        evaluate(model, [(images[:, :1], targets)])
    assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_the_network_runs_in_eval_mode_and_keeps_its_own(problem, training):
    model, images, targets = problem
    dropping = nn.Sequential(model, nn.Dropout(0.9)).train(training)
    assert evaluate(dropping, [(images, targets)]) == evaluate(model, [(images, targets)])
    assert dropping.training is training


def test_the_context_is_entered_for_each_batch_and_the_loss_is_computed_in_float32(problem):
    model, images, targets = problem
    entered = []

    def half():
        entered.append(1)
        return torch.autocast("cpu", torch.bfloat16)

    found = evaluate(model, batches(images, targets, 50), autocast=half)
    assert len(entered) == 3
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images).detach()
    assert logits.dtype == torch.bfloat16
    assert found.loss == pytest.approx(cross_entropy(logits.double(), targets).item(), rel=1e-6)
    assert found.loss != pytest.approx(evaluate(model, [(images, targets)]).loss, rel=1e-6)


def test_sums_lose_nothing_beside_a_large_one():
    """100 losses of ln 2 beside one of 2^30, which float32 would round to multiples of 128."""
    counter = Counter(torch.device("cpu"))
    counter.add(torch.tensor([[2.0**30, 0.0]]), torch.tensor([1]))
    for _ in range(100):
        counter.add(torch.zeros(1, 2), torch.tensor([0]))
    assert counter.metrics().loss * 101 - 2**30 == pytest.approx(100 * math.log(2), rel=1e-3)


def test_nothing_to_evaluate_is_one_sentence(problem):
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(problem[0], [])


class Masked(TorchDispatchMode):
    """Counts indices of booleans, whose length an accelerator has to be asked for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index.Tensor:
            self.count += any(index is not None and index.dtype is torch.bool for index in args[1])
        return func(*args, **(kwargs or {}))


def test_classes_are_counted_without_asking_the_device():
    counter = Counter(torch.device("cpu"), classes=3)
    with Masked() as mode:
        counter.add(torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 0]))
    assert mode.count == 0
    assert counter.metrics().class_top1 == (1, 1, 1)
    assert counter.metrics().class_count == (2, 1, 1)


def test_balanced_accuracy_and_macro_f1_by_hand():
    """Class 3 has no image but is predicted once, class 4 is neither."""
    answers = [(0, 0), (0, 0), (0, 1), (0, 3), (1, 1), (2, 0)]  # (class, prediction)
    counter = Counter(torch.device("cpu"), classes=5)
    for target, predicted in answers:
        counter.add(torch.eye(5)[[predicted]], torch.tensor([target]))
    found = counter.metrics()
    assert found.class_predicted == (3, 2, 0, 1, 0)
    assert found.balanced_accuracy == pytest.approx((2 / 4 + 1 / 1 + 0 / 1) / 3, abs=1e-15)
    assert found.macro_f1 == pytest.approx((2 * 2 / (4 + 3) + 2 * 1 / (1 + 2) + 0 + 0) / 4, abs=1e-15)


def test_of_a_row_with_a_nan_nothing_was_predicted():
    counter = Counter(torch.device("cpu"), classes=2)
    counter.add(torch.tensor([[math.nan, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    found = counter.metrics()
    assert (found.class_predicted, found.class_top1, found.class_count) == ((0, 1), (0, 1), (1, 1))
    assert (found.balanced_accuracy, found.macro_f1) == (0.5, 0.5)


def test_measures_that_were_not_counted_are_not_known():
    found = Metrics(1.0, 0.5, 0.75, 4)
    assert math.isnan(found.macro_f1) and found.score("macro_f1") == -math.inf
    assert found.numbers() == {"loss": 1.0, "top1": 0.5, "top5": 0.75, "count": 4}
    assert (found.score("loss"), found.score("top1")) == (-1.0, 0.5)


def test_an_observer_sees_every_batch(problem):
    model, images, targets = problem
    seen = []
    evaluate(model, batches(images, targets, 40), observe=lambda *pair: seen.append(pair))
    assert torch.equal(torch.cat([found for _, found in seen]), targets)
    assert torch.allclose(torch.cat([logits for logits, _ in seen]), model(images), atol=1e-6)
