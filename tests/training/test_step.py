import copy
import math
from functools import partial
from itertools import islice

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

from t2t_vit.errors import UserError
from t2t_vit.precision import choose_precision
from t2t_vit.training.ema import Ema
from t2t_vit.training.mixed_precision import LARGEST, LossScaler, WorkingCopy
from t2t_vit.training.optimizer import create_optimizer
from t2t_vit.training.randomness import SampleNumbers, step_seed
from t2t_vit.training.step import TrainStep

CPU = torch.device("cpu")


def make_step(model, *, optimizer="adamw", lr=0.01, scaler=None, **settings):
    chosen = create_optimizer(model, optimizer, lr=lr, weight_decay=0.05)
    return TrainStep(model, chosen, scaler=scaler or LossScaler(CPU), **settings)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_close(first, second, **tolerance):
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], **tolerance)


def test_one_step_is_the_plain_one(make_model, make_loader):
    model, plain = make_model(), make_model()
    images, targets = next(make_loader().epoch(0))
    metrics = make_step(model)([(images, targets)])
    optimizer = create_optimizer(plain, "adamw", lr=0.01, weight_decay=0.05)
    loss = cross_entropy(plain(images), targets)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in plain.parameters()])
    optimizer.step()
    assert_close(weights(model), weights(plain), rtol=0, atol=0)
    assert metrics.loss == loss
    assert metrics.grad_norm == norm
    assert not metrics.skipped
    assert metrics.images == 6
    assert all(parameter.grad is None for parameter in model.parameters())


def test_soft_targets_are_the_same_as_hard_ones(make_model, make_loader):
    images, targets = next(make_loader().epoch(0))
    hard = make_step(make_model())([(images, targets)])
    soft = make_step(make_model())([(images, one_hot(targets, 3).float())])
    torch.testing.assert_close(hard.loss, soft.loss)


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "sgd"])
def test_accumulation_equals_the_large_batch(make_model, make_loader, optimizer):
    small, large = make_model(), make_model()
    parts = list(make_loader(batches=4).epoch(0))
    whole = [(torch.cat([images for images, _ in parts]), torch.cat([targets for _, targets in parts]))]
    in_parts, at_once = make_step(small, optimizer=optimizer, accumulation=4), make_step(large, optimizer=optimizer)
    for _ in range(3):
        first, second = in_parts(parts), at_once(whole)
        torch.testing.assert_close(first.loss, second.loss)
        torch.testing.assert_close(first.grad_norm, second.grad_norm)
    assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-6)
    assert first.images == 24


def test_the_loss_that_is_told_is_the_mean_of_all_batches_and_processes(make_model, make_loader):
    batches = list(make_loader(batches=3).epoch(0))
    model = make_model()
    losses = [cross_entropy(model(images), targets).item() for images, targets in batches]
    assert len({round(loss, 3) for loss in losses}) == 3
    told = []

    def mean(loss):
        told.append(loss.item())
        return loss + 100

    metrics = make_step(make_model(), accumulation=3, mean=mean)(batches)
    assert told == [pytest.approx(sum(losses) / 3)]
    assert metrics.loss.item() == pytest.approx(100 + sum(losses) / 3)
    assert metrics.images == 18


def test_what_is_minimised_is_the_loss_that_was_given(make_model, make_loader):
    seen = []

    def loss(logits, targets):
        seen.append((logits.dtype, tuple(logits.shape), targets))
        return cross_entropy(logits, targets) * 3

    batch = next(make_loader().epoch(0))
    metrics = make_step(make_model(), loss=loss, autocast=partial(torch.autocast, "cpu", dtype=torch.bfloat16))([batch])
    ((dtype, shape, targets),) = seen
    assert (dtype, shape) == (torch.float32, (6, 3)) and targets is batch[1]
    assert metrics.loss.item() == pytest.approx(3 * cross_entropy(make_model()(batch[0]), batch[1]).item(), rel=0.02)


def test_the_scale_that_is_told_is_the_one_that_was_used(make_model, make_loader):
    scaler = LossScaler(CPU, 8.0, dynamic=True, growth_interval=1)
    step = make_step(make_model(), scaler=scaler)
    assert [step([batch]).scale.item() for batch in make_loader(batches=3).epoch(0)] == [8, 16, 32]


def test_a_loader_shorter_than_it_says_is_our_fault(make_model, make_loader):
    with pytest.raises(RuntimeError, match="got 1"):
        make_step(make_model(), accumulation=2)(make_loader(batches=1).epoch(0))


def test_clipping_bounds_the_global_norm(make_model, make_loader):
    batch = next(make_loader().epoch(0))
    free, clipped = make_model(), make_model()
    before = weights(free)
    norm = make_step(free, optimizer="momentum", lr=1.0)([batch]).grad_norm.item()
    again = make_step(clipped, optimizer="momentum", lr=1.0, clip_norm=norm / 4)([batch]).grad_norm.item()
    assert again == norm  # what is reported is the norm before clipping
    decayed = {"hidden.weight", "head.weight"}
    for name in before.keys() - decayed:  # lr 1, no momentum yet: the move is the gradient
        torch.testing.assert_close(
            (weights(clipped)[name] - before[name]) * 4, weights(free)[name] - before[name], rtol=1e-3, atol=1e-6
        )


def test_a_norm_below_the_limit_is_left_alone(make_model, make_loader):
    batch = next(make_loader().epoch(0))
    free, clipped = make_model(), make_model()
    make_step(free)([batch])
    make_step(clipped, clip_norm=1e3)([batch])
    assert_close(weights(free), weights(clipped), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(make_model, make_loader, optimizer, bad):
    model = make_model()
    step = make_step(model, optimizer=optimizer, clip_norm=1.0)
    first, second, third = make_loader(batches=3).epoch(0)
    step([first])
    before, state = weights(model), copy.deepcopy(step.optimizer.state_dict())
    metrics = step([(second[0] * bad, second[1])])
    assert metrics.skipped
    assert_close(before, weights(model), rtol=0, atol=0)
    for number, own in state["state"].items():
        assert_close(own, step.optimizer.state_dict()["state"][number], rtol=0, atol=0)
    assert not step([third]).skipped
    assert not torch.equal(before["head.weight"], weights(model)["head.weight"])


@pytest.fixture
def unwritten_memory_is_nan():
    """What torch makes without writing to it, as `empty_like` does, is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unwritten_memory_is_nan")
@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
@pytest.mark.thorough
def test_a_skipped_first_update_leaves_every_optimizer_as_new(make_model, make_loader):
    from timm.optim import get_optimizer_info, list_optimizers

    plain = [name for name in list_optimizers() if not get_optimizer_info(name).second_order]
    tried = 0
    for name in ["adamw", "momentum", "sgd", *plain, "lookahead_sgd", "lookahead_adamw"]:
        first, *rest = make_loader(batches=4).epoch(0)
        skipping, straight = make_model(), make_model()
        try:
            late, step = make_step(skipping, optimizer=name), make_step(straight, optimizer=name)
        except UserError:  # its package is not there
            continue
        assert late([(first[0] * math.inf, first[1])]).skipped
        for number, batch in enumerate(rest):
            for update in (late, step):
                torch.manual_seed(number)  # kron draws
                assert not update([batch]).skipped
        assert all(parameter.isfinite().all() for parameter in skipping.parameters()), name
        assert_close(weights(skipping), weights(straight), rtol=0, atol=0)
        tried += 1
    assert tried > 30


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_the_loss_scale_does_not_change_the_step(make_model, make_loader, dynamic, clip_norm):
    batch = next(make_loader().epoch(0))
    plain, scaled = make_model(), make_model()
    first = make_step(plain, clip_norm=clip_norm)([batch])
    second = make_step(scaled, clip_norm=clip_norm, scaler=LossScaler(CPU, 1024.0, dynamic=dynamic))([batch])
    torch.testing.assert_close(first.grad_norm, second.grad_norm)
    assert_close(weights(plain), weights(scaled), rtol=1e-5, atol=1e-7)
    assert second.scale == 1024


def test_fp16_and_bf16_learn(make_model, make_loader):
    for dtype, scaler in ((torch.float16, LossScaler(CPU, 2.0**30, dynamic=True)), (torch.bfloat16, LossScaler(CPU))):
        model, loader = make_model(), make_loader(batches=40, batch_size=32)
        step = make_step(model, scaler=scaler, autocast=partial(torch.autocast, "cpu", dtype=dtype))
        metrics = [step([batch]) for batch in loader.epoch(0)]
        skipped = [bool(metric.skipped) for metric in metrics]
        assert skipped[0] == (dtype == torch.float16)  # a scale too high is halved until it fits
        assert sum(skipped) < 20
        assert metrics[-1].loss < 0.6 * metrics[0].loss
        assert model.head.weight.dtype == torch.float32


class Reads(TorchDispatchMode):
    """Counts how often the host reads a number from a tensor, which on an accelerator waits for it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("optimizer", "reads"), [("adamw", 0), ("sgd", 0), ("lion", 2)])
def test_the_host_waits_for_nothing(make_model, make_loader, optimizer, reads):
    model = make_model()
    step = make_step(
        model, optimizer=optimizer, ema=Ema(model, 0.9), clip_norm=1.0, accumulation=2,
        scaler=LossScaler(CPU, 1024.0, dynamic=True),
    )  # fmt: skip
    batches = make_loader(batches=4).epoch(0)
    with Reads() as mode:
        step(islice(batches, 2))
        step(islice(batches, 2))
    assert mode.count == reads  # optimizers without fused kernels are asked on the host


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_cuda_waits_for_nothing(make_model, make_loader):
    device = torch.device("cuda")
    model = make_model().to(device)
    step = make_step(
        model, ema=Ema(model, 0.9), clip_norm=1.0, scaler=LossScaler(device, 1024.0, dynamic=True),
        autocast=partial(torch.autocast, "cuda", dtype=torch.float16),
    )  # fmt: skip
    batches = [(images.to(device), targets.to(device)) for images, targets in make_loader().epoch(0)]
    step(batches[:1])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            step([batch])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_average_follows_after_each_step(make_model, make_loader):
    model = make_model()
    ema = Ema(model, 0.9)
    expected = weights(model)
    step = make_step(model, ema=ema)
    for batch in make_loader(batches=3).epoch(0):
        step([batch])
        expected = {name: 0.9 * average + 0.1 * weights(model)[name] for name, average in expected.items()}
    assert_close(weights(ema.module), expected)
    assert torch.equal(ema.module.pos_embed, model.pos_embed)
    assert ema.module.seen == model.seen == 3
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert not ema.module.training


def test_a_skipped_update_does_not_move_the_average(make_model, make_loader):
    model = make_model()
    ema = Ema(model, 0.5)
    step = make_step(model, ema=ema)
    first, second = make_loader(batches=2).epoch(0)
    step([first])
    before = weights(ema.module)
    assert not torch.equal(before["head.weight"], model.head.weight)
    step([(second[0] * math.nan, second[1])])
    assert_close(before, weights(ema.module), rtol=0, atol=0)
    step([second])
    assert not torch.equal(before["head.weight"], ema.module.head.weight)


def test_half_weights_learn_like_whole_ones(make_model, make_loader):
    """O2 beside O0: the masters go the same way, the copy is theirs rounded, and norms stay whole."""
    losses, models = [], []
    for level in ("O0", "O2"):
        precision = choose_precision(level, CPU, training=True)
        model = precision.prepare(make_model())
        copy = WorkingCopy(model, precision.working_copy(model)) if precision.has_masters else None
        step = TrainStep(
            copy.module if copy else model, create_optimizer(model, "adamw", lr=0.01), copy=copy, clip_norm=1.0,
            scaler=LossScaler(CPU, 1024.0, dynamic=True) if precision.scales_loss else LossScaler(CPU),
            autocast=precision.autocast, ema=Ema(model, 0.9), accumulation=2,
        )  # fmt: skip
        batches = make_loader(batches=60, batch_size=32).epoch(0)
        losses.append([step(islice(batches, 2)).loss.item() for _ in range(30)])
        models.append(model)
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    assert losses[1] != losses[0]
    assert losses[1][-1] < 0.6 * losses[1][0]
    assert {weight.dtype for weight in weights(models[1]).values()} == {torch.float32}
    assert_close(weights(models[0]), weights(models[1]), rtol=0.1, atol=0.02)
    assert copy.module.head.weight.dtype == torch.float16
    assert copy.module.norm.weight.dtype == torch.float32
    assert copy.module.seen is model.seen


def test_every_weight_of_the_copy_is_refreshed_and_every_gradient_handed_over(make_model):
    model = make_model()
    precision = choose_precision("O2", CPU, training=True)
    copy = WorkingCopy(model, precision.working_copy(model))
    own = dict(copy.module.named_parameters())
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters(), 1):
            parameter.copy_(torch.full_like(parameter, number / 3))
    copy.refresh()
    for name, master in model.named_parameters():
        assert torch.equal(own[name], master.to(own[name].dtype)), name
    for number, (name, parameter) in enumerate(own.items(), 1):
        parameter.grad = None if name == "cls_token" else torch.full_like(parameter, number)
    given = {name: parameter.grad for name, parameter in own.items()}
    copy.hand_over()
    for number, (name, master) in enumerate(model.named_parameters(), 1):
        assert own[name].grad is None
        if name == "cls_token":
            assert master.grad is None
        else:
            assert master.grad.dtype == torch.float32 and (master.grad == number).all()
            assert master.grad.data_ptr() != given[name].data_ptr()


def test_half_weights_skip_and_recover(make_model, make_loader):
    precision = choose_precision("O2", CPU, training=True)
    model = make_model()
    copy = WorkingCopy(model, precision.working_copy(model))
    step = TrainStep(
        copy.module, create_optimizer(model, "adamw", lr=0.01), copy=copy, autocast=precision.autocast,
        scaler=LossScaler(CPU, 2.0**30, dynamic=True),
    )  # fmt: skip
    before = weights(model)
    first, *rest = make_loader(batches=30).epoch(0)
    assert step([first]).skipped
    assert_close(before, weights(model), rtol=0, atol=0)
    assert not all(step([batch]).skipped for batch in rest)


def test_the_network_is_told_which_samples_come(make_model, make_loader):
    told = []
    step = make_step(
        make_model(), accumulation=2, numbers=SampleNumbers(lambda seeds: told.append(seeds.tolist()), seed=3, rank=1)
    )
    step(make_loader(batches=2, batch_size=4).epoch(0), 7)
    for part, seeds in enumerate(told):
        assert seeds == [(step_seed(3, 7, part) >> 1) + 4 + place for place in range(4)]
    together = []
    SampleNumbers(together.append, seed=3)(torch.zeros(8, 1), 7, 0)
    assert together[0].tolist()[4:] == told[0]


def test_a_dynamic_scale_halves_doubles_and_has_a_floor():
    scaler = LossScaler(CPU, 4.0, dynamic=True, growth_interval=2)
    good, bad = torch.tensor(True), torch.tensor(False)
    scales = []
    for finite in (good, good, good, bad, good, good, bad, bad, bad, bad, bad):
        scaler.update(finite)
        scales.append(scaler.scale.item())
    assert scales == [4, 8, 8, 4, 4, 8, 4, 2, 1, 1, 1]
    low = LossScaler(CPU, 0.5, dynamic=True)
    low.update(bad)
    assert low.scale == 0.5
    high = LossScaler(CPU, LARGEST, dynamic=True, growth_interval=1)
    high.update(good)
    assert high.scale == LARGEST
    first, other = (
        LossScaler(CPU, 64.0, dynamic=True, growth_interval=3),
        LossScaler(CPU, 1.0, dynamic=True, growth_interval=3),
    )
    first.update(good)
    first.update(good)
    other.load_state_dict(first.state_dict())
    assert other.scale == 64
    other.update(good)  # the third in a row
    assert other.scale == 128


def test_a_fixed_scale_stays():
    scaler = LossScaler(CPU, 1024.0)
    scaler.update(torch.tensor(False))
    assert scaler.scale == 1024
