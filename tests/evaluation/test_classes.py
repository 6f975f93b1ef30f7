import pytest
import torch

from t2t_vit.evaluation.outcomes import (
    NO_ANSWER,
    Outcomes,
    class_scores,
    confident_mistakes,
    confusion_matrix,
    top_confusions,
)


def answers(target: list[int], predicted: list[int], confidence: list[float] | None = None) -> Outcomes:
    truth, taken = torch.tensor(target), torch.tensor(predicted)
    sure = torch.tensor(confidence or [0.5] * len(target), dtype=torch.float64)
    return Outcomes(truth, taken, sure, torch.zeros_like(sure), (truth != taken).long())


FOUND = answers([0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, NO_ANSWER, 0], [0.9, 0.8, 0.95, 0.9, 0.85, 0.0, 0.8])


def test_scores_by_hand():
    first, second, third, fourth = class_scores(FOUND, 4)
    assert (first.count, first.predicted, first.right) == (3, 3, 1)
    assert (first.precision, first.recall, first.f1) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert (second.precision, second.recall, second.f1) == pytest.approx((1 / 3, 1 / 2, 0.4))
    assert (third.count, third.predicted, third.precision, third.recall, third.f1) == (2, 0, 0.0, 0.0, 0.0)
    assert (fourth.count, fourth.recall) == (0, 0.0)


def test_f1_is_the_harmonic_mean():
    generator = torch.Generator().manual_seed(0)
    target, predicted = torch.randint(5, (2, 1000), generator=generator).tolist()
    for score in class_scores(answers(target, predicted), 5):
        assert score.f1 == pytest.approx(2 * score.precision * score.recall / (score.precision + score.recall))


def test_the_matrix_and_the_commonest_confusions():
    assert confusion_matrix(FOUND, 3).tolist() == [[1, 2, 0], [1, 1, 0], [1, 0, 0]]
    assert top_confusions(FOUND, 3, 10) == [(0, 1, 2), (1, 0, 1), (2, 0, 1)]
    assert top_confusions(FOUND, 3, 1) == [(0, 1, 2)]
    assert top_confusions(answers([0, 1], [0, 1]), 3, 10) == []


def test_the_most_confident_mistakes_first_and_equals_in_order():
    assert confident_mistakes(FOUND, 10) == [2, 4, 1, 6]
    assert confident_mistakes(FOUND, 2) == [2, 4]
    assert confident_mistakes(answers([0], [0]), 5) == []


def test_a_thousand_classes_and_fifty_thousand_images():
    generator = torch.Generator().manual_seed(0)
    target, predicted = torch.randint(1000, (2, 50_000), generator=generator)
    found = Outcomes(target, predicted, torch.rand(50_000).double(), torch.zeros(50_000), (target != predicted).long())
    scores = class_scores(found, 1000)
    assert sum(score.count for score in scores) == sum(score.predicted for score in scores) == 50_000
    confusions = top_confusions(found, 1000, 50_000)
    assert sum(count for _, _, count in confusions) == 50_000 - sum(score.right for score in scores)
    assert all(true != taken for true, taken, _ in confusions)
