import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from t2t_vit.evaluation.metrics import evaluate
from t2t_vit.evaluation.outcomes import NO_ANSWER, Outcomes, collect


def problem(count: int = 101, classes: int = 10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes)), torch.randn(count, 3, 2, 2), torch.randint(10, (count,))


def gathered(model, images, targets, processes: int, size: int) -> Outcomes:
    """As `processes` would: each fills in its own part, and the parts are added up."""
    tables = []

    def keep(table):
        tables.append(table.clone())
        return table.fill_(0) + 0

    for rank in range(processes):
        mine = torch.arange(rank, len(images), processes)
        batches = [(images[part], targets[part]) for part in mine.split(size)]
        if rank < processes - 1:
            with pytest.raises(RuntimeError, match="each once"):
                collect(model, batches, mine.tolist(), len(images), reduce=keep)
        else:
            return collect(model, batches, mine.tolist(), len(images), reduce=lambda own: own + sum(tables))
    raise AssertionError


def test_outcomes_are_the_plain_definitions():
    model, images, targets = problem()
    found = collect(model.train(), [(images, targets)], range(101), 101)
    assert model.training
    logits = model(images).detach().double()
    assert torch.equal(found.target, targets)
    assert torch.equal(found.predicted, logits.argmax(1))
    torch.testing.assert_close(found.confidence, logits.softmax(1).max(1).values)
    torch.testing.assert_close(found.loss, cross_entropy(logits, targets, reduction="none"))
    assert torch.equal(found.right, logits.argmax(1) == targets)
    assert found.confidence.dtype == torch.float64


@pytest.mark.parametrize("training", [True, False])
def test_the_network_runs_in_eval_mode_and_keeps_its_own(training):
    model, images, targets = problem()
    dropping = nn.Sequential(model, nn.Dropout(0.9)).train(training)
    found, plain = (collect(each, [(images, targets)], range(101), 101) for each in (dropping, model))
    assert torch.equal(found.loss, plain.loss)
    assert dropping.training is training


def test_the_context_is_entered_for_each_batch():
    model, images, targets = problem()
    entered = []

    def half():
        entered.append(1)
        return torch.autocast("cpu", torch.bfloat16)

    parts = list(zip(images.split(50), targets.split(50), strict=True))
    found = collect(model, parts, range(101), 101, autocast=half)
    assert len(entered) == 3
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images).detach()
    torch.testing.assert_close(found.loss, cross_entropy(logits.double(), targets, reduction="none"))


def test_they_agree_with_the_metrics():
    model, images, targets = problem()
    found, metrics = collect(model, [(images, targets)], range(101), 101), evaluate(model, [(images, targets)])
    assert found.right.sum().item() == metrics.top1 * metrics.count
    assert (found.rank < 5).sum().item() == round(metrics.top5 * metrics.count)
    assert found.loss.mean().item() == pytest.approx(metrics.loss, rel=1e-6)


@pytest.mark.parametrize(("processes", "size"), [(1, 7), (2, 64), (3, 7), (3, 1)])
def test_any_number_of_processes_and_batch_size_finds_the_same(processes, size):
    model, images, targets = problem()
    one, many = collect(model, [(images, targets)], range(101), 101), gathered(model, images, targets, processes, size)
    for name in ("target", "predicted", "rank"):
        assert torch.equal(getattr(one, name), getattr(many, name))
    torch.testing.assert_close(one.confidence, many.confidence, rtol=1e-6, atol=0)


def test_an_image_that_is_left_out_or_comes_twice_is_noticed():
    model, images, targets = problem(8)
    with pytest.raises(RuntimeError, match="each once"):
        collect(model, [(images[:7], targets[:7])], range(7), 8)
    with pytest.raises(RuntimeError, match="each once"):
        collect(model, [(images, targets), (images[:1], targets[:1])], [*range(8), 0], 8)


def test_logits_that_are_no_numbers():
    logits = torch.tensor([[math.nan, 2.0, 0.0], [math.inf, 0.0, 0.0], [-math.inf, 1.0, 1.0]])
    found = collect(nn.Identity(), [(logits, torch.tensor([1, 0, 1]))], range(3), 3)
    assert found.predicted.tolist() == [NO_ANSWER, 0, 1]  # the first of equal ones
    assert found.confidence.tolist() == [0.0, 1.0, 0.5]
    assert found.right.tolist() == [False, True, True]
