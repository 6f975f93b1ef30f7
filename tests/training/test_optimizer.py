import math

import pytest
import torch
from torch.optim import SGD, AdamW

from t2t_vit.errors import UserError
from t2t_vit.training.optimizer import (
    Schedule,
    can_skip_on_device,
    create_optimizer,
    parameter_groups,
    set_lr,
    trainable,
)


def test_no_decay_on_vectors_biases_and_what_the_model_names(make_model):
    model = make_model()
    model.norm.bias.requires_grad_(False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = parameter_groups(model, 0.05)
    assert {names[id(p)] for p in decayed["params"]} == {"hidden.weight", "head.weight"}
    assert {names[id(p)] for p in free["params"]} == {"cls_token", "hidden.bias", "norm.weight", "head.bias"}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)


def test_a_bias_of_several_dimensions_is_a_bias():
    class Relative(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table_bias = torch.nn.Parameter(torch.zeros(2, 3))
            self.table = torch.nn.Parameter(torch.zeros(2, 3))

    model = Relative()
    decayed, free = parameter_groups(model, 0.05)
    ((weight,), (bias,)) = decayed["params"], free["params"]
    assert weight is model.table and bias is model.table_bias


def test_timms_optimizers_get_their_momentum(make_model):
    groups = create_optimizer(make_model(), "rmsproptf", lr=0.1, momentum=0.7, eps=1e-5).param_groups
    assert {(group["momentum"], group["eps"]) for group in groups} == {(0.7, 1e-5)}


def test_adamw_gets_its_settings_and_is_fused(make_model):
    optimizer = create_optimizer(make_model(), "adamw", lr=0.1, weight_decay=0.05, betas=(0.8, 0.9), eps=1e-5)
    assert isinstance(optimizer, AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-5
    assert optimizer.defaults["fused"] is True


@pytest.mark.parametrize(("name", "nesterov"), [("momentum", False), ("sgd", True)])
def test_the_two_sgds(make_model, name, nesterov):
    optimizer = create_optimizer(make_model(), name, lr=0.1, weight_decay=0.05, momentum=0.7)
    assert isinstance(optimizer, SGD)
    assert optimizer.param_groups[0]["nesterov"] is nesterov
    assert optimizer.param_groups[0]["momentum"] == 0.7
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_foreach_where_there_is_no_fused_kernel(make_model, monkeypatch):
    def without_fused(groups, *, fused=None, **settings):
        if fused:
            raise RuntimeError("`fused=True` requires all the params to be floating point Tensors of supported devices")
        return AdamW(groups, **settings)

    monkeypatch.setattr("t2t_vit.training.optimizer.AdamW", without_fused)
    optimizer = create_optimizer(make_model(), "adamw", lr=0.1)
    assert optimizer.defaults["foreach"] is True
    assert not can_skip_on_device(optimizer)


@pytest.mark.parametrize("name", ["lamb", "lion", "adan", "rmsproptf", "lookahead_nadam"])
def test_timm_knows_the_rest(make_model, name):
    optimizer = create_optimizer(make_model(), name, lr=0.1, weight_decay=0.05, betas=(0.8, 0.9), eps=1e-5)
    groups = optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.05, 0.0}
    if name == "lamb":
        assert tuple(groups[0]["betas"]) == (0.8, 0.9)
        assert groups[0]["eps"] == 1e-5
    if name == "adan":  # has three
        assert len(groups[0]["betas"]) == 3
    for parameter in trainable(optimizer):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_names_that_do_not_work(make_model):
    with pytest.raises(UserError, match="did you mean momentum"):
        create_optimizer(make_model(), "momentun", lr=0.1)
    with pytest.raises(UserError, match="second derivatives"):
        create_optimizer(make_model(), "adahessian", lr=0.1)
    with pytest.raises(UserError, match="timm cannot create bnbadam"):
        create_optimizer(make_model(), "bnbadam", lr=0.1)


def test_set_lr_reaches_every_group(make_model):
    optimizer = create_optimizer(make_model(), "adamw", lr=0.1)
    optimizer.param_groups[0]["lr_scale"] = 0.5
    assert set_lr(optimizer, 0.2) == 0.2
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


SCALES = {"cls_token": 0.25, "hidden": 0.5, "norm": 0.5, "head": 1.0}


def scales_of(model):
    return {name: SCALES[name.partition(".")[0]] for name, _ in model.named_parameters()}


def test_groups_of_equal_rate_and_decay(make_model):
    model = make_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.05, scales_of(model))
    found = [(g["lr_scale"], g["weight_decay"], {names[id(p)] for p in g["params"]}) for g in groups]
    assert found == [
        (0.25, 0.0, {"cls_token"}),
        (0.5, 0.05, {"hidden.weight"}),
        (0.5, 0.0, {"hidden.bias", "norm.weight", "norm.bias"}),
        (1.0, 0.05, {"head.weight"}),
        (1.0, 0.0, {"head.bias"}),
    ]


def test_a_group_steps_with_its_own_rate(make_model):
    model = make_model()
    optimizer = create_optimizer(model, "momentum", lr=0.1, momentum=0.0, lr_scales=scales_of(model))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in trainable(optimizer):
        parameter.grad = torch.ones_like(parameter)
    set_lr(optimizer, 0.2)
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = (before[name] - parameter).mean().item()
        assert moved == pytest.approx(0.2 * SCALES[name.partition(".")[0]], rel=1e-4), name


@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
@pytest.mark.thorough
def test_every_optimizer_keeps_the_scales_and_gives_them_back(make_model):
    from timm.optim import get_optimizer_info, list_optimizers

    names = ["adamw", "momentum", "sgd", *(n for n in list_optimizers() if not get_optimizer_info(n).second_order)]
    missing = []
    for name in names:
        model, fresh = make_model(), make_model()
        try:
            optimizer = create_optimizer(model, name, lr=0.1, weight_decay=0.05, lr_scales=scales_of(model))
        except UserError as error:
            assert "timm cannot create" in str(error), name
            missing.append(name)
            continue
        set_lr(optimizer, 0.01)
        for parameter in trainable(optimizer):
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
        scales = [group["lr_scale"] for group in optimizer.param_groups]
        assert {0.25, 0.5, 1.0} == set(scales), name
        assert [group["lr"] for group in optimizer.param_groups] == [0.01 * scale for scale in scales], name
        again = create_optimizer(fresh, name, lr=0.1, weight_decay=0.05, lr_scales=scales_of(fresh))
        again.load_state_dict(optimizer.state_dict())
        assert [group["lr_scale"] for group in again.param_groups] == scales, name
    assert all(name.startswith(("bnb", "fused")) for name in missing)  # bitsandbytes and apex are not there


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
@pytest.mark.parametrize("name", ["cosine_lr", "multistep_lr", "exp_lr", "constant_lr", "wsd_lr"])
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
            "wsd_lr": BASE if epoch < 8 else LOW + (BASE - LOW) * (1 - math.sqrt((epoch - 8) / 2)),
        }[name]
        if epoch < warmup_length:
            closed = WARM + (BASE - WARM) * epoch / warmup_length
        assert schedule(step) == pytest.approx(LOW if epoch >= 10 else closed, rel=1e-12)


def test_never_below_min_lr_after_warm_up_and_at_it_in_the_cooldown():
    steep = make("exp_lr", lr_gamma=0.1)
    assert min(steep(step) for step in range(10, 60)) == LOW
    assert make("constant_lr")(50) == LOW
    assert make("constant_lr")(1000) == LOW


def test_stable_then_decay():
    linear = make("wsd_lr", lr_decay_share=0.4, lr_decay_shape="linear")
    assert {linear(step) for step in range(10, 31)} == {BASE}
    assert linear(40) == pytest.approx((BASE + LOW) / 2)
    assert make("wsd_lr", lr_decay_share=0.4)(35) == pytest.approx(LOW + (BASE - LOW) * 0.5)  # a quarter is over


def test_a_decay_longer_than_what_follows_warm_up_begins_at_its_end():
    schedule = make("wsd_lr", lr_decay_share=1.0, lr_decay_shape="linear", warmup_length=4)
    assert schedule(20) == BASE
    assert schedule(35) == pytest.approx((BASE + LOW) / 2)


def test_a_warm_up_longer_than_the_run():
    schedule = make(warmup_length=40)
    assert schedule(49) == pytest.approx(WARM + (BASE - WARM) * 49 / 200)
    assert schedule(50) == LOW


def test_no_warm_up():
    assert make(warmup_length=0)(0) == BASE


def test_unknown_name():
    with pytest.raises(UserError, match="did you mean cosine_lr"):
        make("cosine")
