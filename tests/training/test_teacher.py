import copy
import math
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from t2t_vit.precision import choose_precision
from t2t_vit.training.ema import Ema
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.optimizer import create_optimizer
from t2t_vit.training.step import TrainStep
from t2t_vit.training.teacher import (
    Distillation,
    Teacher,
    TokenDistillation,
    hard_loss,
    soft_loss,
    token_labels,
    token_loss,
)

CPU = torch.device("cpu")
# Two classes: softmax of (0, ln 3) is (1/4, 3/4), of (0, 0) it is (1/2, 1/2).
STUDENT, ANSWERS = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])


def test_the_soft_loss_is_the_divergence_computed_by_hand():
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert soft_loss(STUDENT, ANSWERS).item() == pytest.approx(by_hand, rel=1e-6)
    # Logits of twice the size at temperature 2 are the same probabilities; the loss is four times as large.
    assert soft_loss(2 * STUDENT, 2 * ANSWERS, 2.0).item() == pytest.approx(4 * by_hand, rel=1e-6)
    assert soft_loss(ANSWERS, ANSWERS, 3.0).item() == 0


def test_the_soft_loss_is_a_mean_over_the_images():
    logits, answers = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    each = [soft_loss(logits[i : i + 1], answers[i : i + 1], 2.0) for i in range(5)]
    torch.testing.assert_close(soft_loss(logits, answers, 2.0), torch.stack(each).mean())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_soft_loss_is_hintons_and_deits(temperature: float):
    """Hinton's gradient is (q - p) / T for one image, T^2 keeps its size; DeiT divides a sum over all by their number.

    DeiT's formula (its losses.py): kl_div(log_softmax(s / T), log_softmax(t / T), reduction sum, log_target) * T * T /
    number of elements, whose mean over the classes too makes it K times smaller than the divergence that is meant.
    """
    logits, answers = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits.requires_grad_()
    soft_loss(logits, answers, temperature).backward()
    q, p = (logits / temperature).softmax(1), (answers / temperature).softmax(1)
    torch.testing.assert_close(logits.grad, temperature * (q - p).detach() / 4)
    log_q, log_p = q.log(), p.log()
    total = (p * (log_p - log_q)).sum() * temperature**2
    torch.testing.assert_close(soft_loss(logits, answers, temperature), total / 4)


def test_the_hard_loss_is_the_cross_entropy_with_the_first_choice():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    answers = torch.tensor([[-1.0, 5.0], [2.0, 1.0]])  # classes 1 and 0
    assert hard_loss(logits, answers).item() == pytest.approx((-math.log(0.75) + math.log(2)) / 2, rel=1e-6)


def test_half_the_weight_on_the_hard_loss_is_the_mean_of_deit():
    generator = torch.Generator().manual_seed(2)
    logits, answers = torch.randn(2, 8, 5, generator=generator)
    targets = torch.rand(8, 5, generator=generator).softmax(1)
    images = torch.zeros(8, 1)
    loss = Distillation(lambda _: answers, hard_loss, 0.5).about(images, cross_entropy)(logits, targets)
    torch.testing.assert_close(loss, (cross_entropy(logits, targets) + cross_entropy(logits, answers.argmax(1))) / 2)


def distilling(model, teacher, weight=0.5, temperature=2.0, *, loss=None, **settings):
    optimizer = create_optimizer(model, "adamw", lr=0.01)
    loss = loss or partial(soft_loss, temperature=temperature)
    distillation = Distillation(Teacher(teacher), loss, weight)
    return TrainStep(
        model, optimizer, scaler=settings.pop("scaler", LossScaler(CPU)), distillation=distillation, **settings
    )


@pytest.mark.parametrize("loss", [soft_loss, hard_loss])
def test_a_step_learns_from_both_and_the_teacher_from_nothing(make_model, make_loader, loss):
    model, plain, teacher = make_model(), make_model(), make_model(seed=1).eval()
    before = copy.deepcopy(teacher.state_dict())
    images, targets = next(make_loader().epoch(0))
    step = distilling(model, teacher, 0.3, loss=loss)
    metrics = step([(images, targets)])
    logits = plain(images)
    expected = 0.7 * cross_entropy(logits, targets) + 0.3 * loss(logits, teacher(images).detach())
    assert metrics.loss == expected
    expected.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in plain.parameters()])
    torch.testing.assert_close(metrics.grad_norm, norm)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    before["seen"] += 2  # it was asked here once more
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    held = {id(parameter) for group in step.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}


def test_a_teacher_whose_weights_want_a_gradient_gets_none(make_model, make_loader):
    """No graph is made in it at all, so nothing of it is kept for the backward pass either."""
    teacher = make_model(seed=1).eval()
    answers = Teacher(teacher)(next(make_loader().epoch(0))[0])
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert not answers.requires_grad


def test_the_teacher_sees_what_the_view_makes_and_answers_in_the_students_classes(make_model):
    teacher, images = make_model(seed=1).eval(), torch.randn(2, 3, 2, 2)
    answers = Teacher(teacher, view=lambda x: 2 * x, columns=torch.tensor([2, 0]))(images)
    torch.testing.assert_close(answers, teacher(2 * images).detach()[:, [2, 0]])


def test_answers_are_float32_whatever_the_teacher_computes_in(make_model):
    precision = choose_precision("bf16", CPU, training=True)
    teacher, images = make_model(seed=1).eval(), torch.randn(2, 3, 2, 2)
    answers = Teacher(teacher, autocast=precision.autocast)(images)
    assert answers.dtype == torch.float32
    assert not torch.equal(answers, teacher(images))
    torch.testing.assert_close(answers, teacher(images).detach(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("level", ["O1", "bf16"])
def test_half_precision_average_and_accumulation_hold_with_a_teacher(make_model, make_loader, level):
    precision = choose_precision(level, CPU, training=True)
    model, plain, teacher = make_model(), make_model(), make_model(seed=1).eval()
    scaler = LossScaler(CPU, 1024.0, dynamic=True) if precision.scales_loss else LossScaler(CPU)
    ema = Ema(model, 0.5)
    step = distilling(model, teacher, scaler=scaler, accumulation=2, autocast=precision.autocast, ema=ema)
    batches = [batch for batch, _ in zip(make_loader().epoch(0), range(2), strict=False)]
    metrics = step(batches)
    exact = distilling(plain, make_model(seed=1).eval(), accumulation=2)(batches)
    torch.testing.assert_close(metrics.loss, exact.loss, rtol=0.02, atol=0.02)
    assert not metrics.skipped
    initial = make_model().state_dict()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ema.module.get_parameter(name), (initial[name] + parameter) / 2)


def test_labels_of_tokens_are_the_maps_at_their_places():
    maps = torch.log(torch.arange(1.0, 13).view(1, 3, 2, 2))  # K = 3, logits whose exponentials are 1 to 12
    labels = token_labels(maps, (2, 2))
    by_hand = torch.tensor([[1.0, 5, 9], [2, 6, 10], [3, 7, 11], [4, 8, 12]])
    torch.testing.assert_close(labels, (by_hand / by_hand.sum(1, keepdim=True))[None])


def test_a_map_of_another_grid_is_resized_before_the_softmax():
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(maps, (2, 3), mode="bilinear", antialias=True).softmax(1)
    torch.testing.assert_close(token_labels(maps, (2, 3)), expected.flatten(2).transpose(1, 2))


def test_the_loss_of_tokens_is_the_one_of_token_labeling():
    """Their SoftTargetCrossEntropy over all tokens: sum_k -y_k log softmax(x)_k, the mean over B N rows."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, generator=generator)
    labels = torch.randn(2, 5, 4, generator=generator).softmax(2)
    theirs = torch.sum(-labels.reshape(-1, 4) * torch.log_softmax(logits.reshape(-1, 4), dim=-1), dim=-1).mean()
    torch.testing.assert_close(token_loss(logits, labels), theirs)
    # Two classes by hand: even logits, whatever the label, cost ln 2.
    even, half = torch.zeros(1, 3, 2), torch.tensor([0.3, 0.7]).expand(1, 3, 2)
    assert token_loss(even, half).item() == pytest.approx(math.log(2))


class Halves:
    """The second half of the tokens is the neighbour's; counts how often it was begun."""

    def __init__(self):
        self.begun = []

    def begin(self, grid, step, part):
        self.begun.append((grid, step, part))

    def tokens(self, tokens):
        half = tokens.shape[1] // 2
        return torch.cat([tokens[:, :half], tokens.flip(0)[:, half:]], dim=1)

    def targets(self, targets):
        return (targets + targets.flip(0)) / 2


def test_the_whole_loss_is_of_the_image_and_of_its_tokens():
    """Token labeling's: cls_weight L + dense_weight D, here 1 - w and w; with MixToken, both by the mixed labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=generator)
    targets = torch.randn(2, 3, generator=generator).softmax(1)
    maps = torch.randn(2, 3, 2, 2, generator=generator)
    labels = token_labels(maps, (2, 2))
    asked = []

    def teacher(images):
        asked.append(images)
        return maps

    images = torch.zeros(2, 3, 32, 24)
    plain = TokenDistillation(teacher, 0.25, lambda size: (size[0] // 16, size[1] // 12))
    loss = plain.about(images, cross_entropy)(logits, targets)
    expected = 0.75 * cross_entropy(logits[:, 0], targets) + 0.25 * token_loss(logits[:, 1:], labels)
    torch.testing.assert_close(loss, expected)
    mixing = Halves()
    mixed = TokenDistillation(teacher, 0.25, plain.grid, mixing).about(images, cross_entropy, 7, 1)(logits, targets)
    by_targets = cross_entropy(logits[:, 0], (targets + targets.flip(0)) / 2)
    torch.testing.assert_close(mixed, 0.75 * by_targets + 0.25 * token_loss(logits[:, 1:], mixing.tokens(labels)))
    assert mixing.begun == [((2, 2), 7, 1)]
    assert all(image is images for image in asked)
