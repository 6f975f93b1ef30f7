import math

import pytest

from t2t_vit.errors import UserError
from t2t_vit.training.schedule import Schedule

BASE, LOW, WARM = 1e-3, 1e-5, 7e-6


def make(name="cosine_lr", **changes):
    settings = {
        "base_lr": BASE, "min_lr": LOW, "warmup_lr": WARM, "warmup_length": 2, "epochs": 10, "updates_per_epoch": 5,
    } | changes  # fmt: skip
    return Schedule(name, **settings)


def test_warm_up_is_linear_step_by_step():
    schedule = make()
    assert schedule(0) == WARM
    for step in range(10):
        assert schedule(step) == pytest.approx(WARM + (BASE - WARM) * step / 10)
    assert schedule(10) == pytest.approx(BASE)


def test_cosine():
    schedule = make()
    for step in range(10, 50):
        elapsed = step / 5 - 2
        assert schedule(step) == pytest.approx(LOW + (BASE - LOW) * (1 + math.cos(math.pi * elapsed / 8)) / 2)
    assert schedule(30) == pytest.approx((BASE + LOW) / 2)


def test_multistep():
    schedule = make("multistep_lr", lr_adjust=3, lr_gamma=0.1)
    lrs = [schedule(step) for step in (10, 24, 25, 39, 40, 49)]  # 2, 4.8, 5, 7.8, 8, 9.8 epochs
    assert lrs == pytest.approx([BASE, BASE, BASE * 0.1, BASE * 0.1, BASE * 0.01, BASE * 0.01])


def test_exponential_and_constant():
    schedule = make("exp_lr", lr_gamma=0.9)
    assert schedule(33) == pytest.approx(BASE * 0.9 ** (33 / 5 - 2))
    assert make("constant_lr")(49) == BASE


@pytest.mark.parametrize("warmup_length", [0, 0.5, 2, 3.7])
@pytest.mark.parametrize("updates", [1, 7])
@pytest.mark.parametrize("name", ["cosine_lr", "multistep_lr", "exp_lr", "constant_lr"])
def test_every_step_is_the_closed_form(name, updates, warmup_length):
    """The formulas of the schedules, written out once more, at every step of warm-up, run and cooldown."""
    schedule = make(name, updates_per_epoch=updates, warmup_length=warmup_length, lr_adjust=1.5, lr_gamma=0.2)
    for step in range(13 * updates):
        epoch = step / updates
        elapsed = epoch - warmup_length
        closed = {
            "cosine_lr": LOW + (BASE - LOW) * (1 + math.cos(math.pi * elapsed / (10 - warmup_length))) / 2,
            "multistep_lr": max(LOW, BASE * 0.2 ** math.floor(elapsed / 1.5)),
            "exp_lr": max(LOW, BASE * 0.2**elapsed),
            "constant_lr": BASE,
        }[name]
        if epoch < warmup_length:
            closed = WARM + (BASE - WARM) * epoch / warmup_length
        assert schedule(step) == pytest.approx(LOW if epoch >= 10 else closed, rel=1e-12)


def test_never_below_min_lr_after_warm_up_and_at_it_in_the_cooldown():
    steep = make("exp_lr", lr_gamma=0.1)
    assert min(steep(step) for step in range(10, 60)) == LOW
    assert make("constant_lr")(50) == LOW
    assert make("constant_lr")(1000) == LOW


def test_a_warm_up_longer_than_the_run():
    schedule = make(warmup_length=40)
    assert schedule(49) == pytest.approx(WARM + (BASE - WARM) * 49 / 200)
    assert schedule(50) == LOW


def test_no_warm_up():
    assert make(warmup_length=0)(0) == BASE


def test_unknown_name():
    with pytest.raises(UserError, match="did you mean cosine_lr"):
        make("cosine")
