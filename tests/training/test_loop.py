import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from t2t_vit.errors import UserError
from t2t_vit.model.drop import SampleSeeds
from t2t_vit.precision import choose_precision
from t2t_vit.training.callbacks import Callback, Callbacks
from t2t_vit.training.distributed import Processes
from t2t_vit.training.divergence import StopOnDivergence
from t2t_vit.training.ema import Ema
from t2t_vit.training.loop import Validation, train
from t2t_vit.training.mixed_precision import LossScaler, WorkingCopy
from t2t_vit.training.optimizer import Schedule, create_optimizer
from t2t_vit.training.randomness import SampleNumbers, step_seed
from t2t_vit.training.signals import Stop
from t2t_vit.training.state import Clock, State
from t2t_vit.training.step import TrainStep


class Record(Callback):
    """Remembers everything it is told."""

    def __init__(self, interrupt_at: int = 0) -> None:
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.epochs: list[tuple[int, int, bool]] = []
        self.events: list[str] = []
        self.interrupt_at = interrupt_at

    def on_step(self, state, metrics):
        self.lrs.append(state.lr)
        self.losses.append(metrics.loss.item())
        if state.step == self.interrupt_at:
            raise KeyboardInterrupt

    def on_epoch(self, state):
        self.epochs.append((state.epoch, state.step, state.evaluated))

    def on_end(self, state):
        self.events.append(f"end {state.step}")

    def on_stop(self, state, _whole):
        self.events.append(f"stop {state.step}")

    def close(self):
        self.events.append("close")


def run(model, loader, state, *, validation=None, callbacks=(), ema=None, accumulation=1, seed=0, step=None):
    schedule = Schedule("cosine_lr", 0.01, state.epochs, state.updates_per_epoch, warmup_length=1)
    step = step or TrainStep(
        model, create_optimizer(model, "adamw", lr=0.01), scaler=LossScaler(torch.device("cpu")),
        ema=ema, accumulation=accumulation,
    )  # fmt: skip
    record = Record()
    train(step, loader, schedule, state, validation=validation, callbacks=(record, *callbacks), seed=seed)
    return record


def test_a_run_learns_and_tells_everything_in_order(make_model, make_loader):
    model, loader = make_model(), make_loader(batch_size=32)
    ema = Ema(model, 0.5)
    validation = Validation(list(loader.epoch(99)), {"raw": model, "ema": ema.module}, every_epochs=2)
    state = State.begin(len(loader), epochs=5)
    record = run(model, loader, state, validation=validation, ema=ema)
    assert record.epochs == [(1, 8, False), (2, 16, True), (3, 24, False), (4, 32, True), (5, 40, True)]
    assert record.events == ["end 40", "close"]
    assert record.lrs == [Schedule("cosine_lr", 0.01, 5, 8, warmup_length=1)(step) for step in range(40)]
    assert state.results.keys() == {"raw", "ema"}
    assert state.results["raw"].top1 > 0.8
    assert state.results["raw"] != state.results["ema"]
    assert model.training


def test_accumulation_leaves_the_odd_batches_out(make_model, make_loader):
    loader = make_loader(batches=8)
    state = State.begin(len(loader), accumulation=3, epochs=2)
    assert state.updates_per_epoch == 2
    record = run(make_model(), loader, state, accumulation=3)
    assert len(record.losses) == 4


def test_an_epoch_without_an_update_is_one_sentence():
    with pytest.raises(UserError, match=r"accumulation_step.*4 batches.*has 3"):
        State.begin(3, accumulation=4, epochs=1)
    with pytest.raises(UserError, match="start_epoch: 5"):
        State.begin(3, epochs=5, start_epoch=5)


def test_max_steps_ends_inside_an_epoch_and_still_evaluates(make_model, make_loader):
    loader, model = make_loader(), make_model()
    validation = Validation(list(loader.epoch(99)), {"raw": model}, every_epochs=0)
    record = run(model, loader, State.begin(len(loader), epochs=5, max_steps=11), validation=validation)
    assert record.epochs == [(1, 8, False), (2, 11, True)]
    assert record.events[0] == "end 11"


def test_start_epoch_skips_in_the_schedule_and_in_the_data(make_model, make_loader):
    loader = make_loader()
    state = State.begin(len(loader), epochs=5, start_epoch=3, max_steps=10)
    asked = []
    original = loader.epoch
    loader.epoch = lambda epoch, start=0: asked.append((epoch, start)) or original(epoch, start)
    record = run(make_model(), loader, state)
    assert asked == [(3, 0), (4, 0)]
    assert record.lrs[0] == Schedule("cosine_lr", 0.01, 5, 8, warmup_length=1)(24)
    assert state.step == 34


def test_equal_runs_are_equal_and_the_seed_matters(make_model, make_loader):
    def losses(seed):
        torch.manual_seed(torch.seed())  # what went on before does not matter
        return run(make_model(dropout=0.5), make_loader(), State.begin(8, epochs=2), seed=seed).losses

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_going_on_from_the_middle_of_an_epoch_is_the_same_run(make_model, make_loader):
    whole_model = make_model(dropout=0.5)
    whole = run(whole_model, make_loader(), State.begin(8, epochs=3, accumulation=2), accumulation=2)
    model = make_model(dropout=0.5)
    step = TrainStep(
        model, create_optimizer(model, "adamw", lr=0.01), scaler=LossScaler(torch.device("cpu")), accumulation=2
    )
    first = run(model, make_loader(), State.begin(8, epochs=3, accumulation=2, max_steps=6), step=step)
    rest = State.begin(8, epochs=3, accumulation=2)
    rest.step = 6
    second = run(model, make_loader(), rest, step=step)
    assert first.losses + second.losses == whole.losses
    for ours, theirs in zip(model.state_dict().values(), whole_model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_ctrl_c_is_told_and_passed_on(make_model, make_loader):
    record = Record(interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        run(make_model(), make_loader(), State.begin(8, epochs=2), callbacks=(record,))
    assert record.events == ["stop 3", "close"]


class Broken:
    """Batches of NaN."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start=0):
        for images, targets in self.loader.epoch(epoch, start):
            yield images * math.nan, targets


def test_divergence_ends_the_run_in_one_sentence(make_model, make_loader):
    model = make_model()
    record = Record()
    with pytest.raises(UserError, match="training diverged: 20 updates in a row, steps 1 to 20"):
        run(
            model,
            Broken(make_loader(batches=50)),
            State.begin(50, epochs=2),
            callbacks=(record, StopOnDivergence()),
        )
    assert len(record.losses) == 20
    assert record.events == ["stop 20", "close"]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_every_callback_is_closed_even_if_one_fails():
    class Fails(Callback):
        def close(self):
            raise OSError("disk")

    first, last = Record(), Record()
    with pytest.raises(OSError, match="disk"):
        Callbacks([first, Fails(), last]).close()
    assert first.events == last.events == ["close"]


def test_an_evaluation_has_its_autocast_and_its_sum_over_processes(make_model, make_loader):
    model, loader = make_model(), make_loader(batches=3)
    batches = list(loader.epoch(9))
    types = []
    model.register_forward_hook(lambda _module, _inputs, logits: types.append(logits.dtype))

    def two_alike(numbers):
        return numbers * 2

    def evaluated(**settings):
        types.clear()
        return Validation(batches, {"raw": model}, **settings)(Stop(), Callback())["raw"]

    plain = evaluated()
    assert (plain.count, set(types)) == (18, {torch.float32})
    both = evaluated(autocast=lambda: torch.autocast("cpu", torch.bfloat16), reduce=two_alike)
    assert (both.count, set(types)) == (36, {torch.bfloat16})
    assert both.top1 == pytest.approx(plain.top1, abs=0.1) and both.loss == pytest.approx(plain.loss, rel=0.05)


def test_every_set_of_weights_is_evaluated_by_its_own(make_model, make_loader):
    raw, ema = make_model(), make_model(seed=5)
    batches = list(make_loader(batches=3).epoch(9))
    found = Validation(batches, {"raw": raw, "ema": ema})(Stop(), Callback())
    for name, model in (("raw", raw), ("ema", ema)):
        with torch.no_grad():
            losses = [torch.nn.functional.cross_entropy(model.eval()(images), targets) for images, targets in batches]
        assert found[name].loss == pytest.approx(float(sum(losses)) / 3, rel=1e-5)
    assert found["raw"].loss != pytest.approx(found["ema"].loss, rel=1e-3)


def test_each_update_is_numbered_and_each_process_draws_its_own(make_model, make_loader):
    told = []

    class Numbered(TrainStep):
        def __call__(self, batches, step=0):
            told.append((step, torch.initial_seed()))
            return super().__call__(batches, step)

    for rank in (0, 2):
        model = make_model()
        step = Numbered(model, create_optimizer(model, "adamw", lr=0.01), scaler=LossScaler(torch.device("cpu")))
        schedule = Schedule("constant_lr", 0.01, 2, 4)
        train(step, make_loader(batches=4), schedule, State.begin(4, epochs=2, max_steps=5), seed=3, rank=rank)
    assert told == [(number, step_seed(3, number, rank)) for rank in (0, 2) for number in range(5)]


def test_seeds_of_steps_are_their_own():
    seeds = {step_seed(seed, step, rank) for seed in range(5) for step in range(20) for rank in range(3)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_waiting_for_data_is_measured(monkeypatch):
    """By a clock that reading, training and evaluating move on."""
    now = [50.0]
    monkeypatch.setattr("t2t_vit.training.state.perf_counter", lambda: now[0])
    clock = Clock()

    def batches():
        for number in range(3):
            now[0] += 4.0
            yield number

    for _ in range(2):
        for number in clock.watch(batches()):
            now[0] += 1.0
            assert (clock.training - clock.waiting) % 3 == (number + 1) % 3
        now[0] += 100.0  # an evaluation
    assert (clock.waiting, clock.training, clock.elapsed) == (24.0, 30.0, 230.0)


class Reads(TorchDispatchMode):
    """At which update the host read a number from a tensor, which on an accelerator waits for it."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state, self.at = state, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.at.add(self.state.step)
        return func(*args, **(kwargs or {}))


def test_between_log_lines_the_host_reads_nothing(make_model, make_loader):
    """With an average, clipping, a dynamic scale and half weights, beside something that logs every fifth."""
    cpu = torch.device("cpu")
    model, loader = make_model(), make_loader(batches=24)
    state = State.begin(24, accumulation=2, epochs=1)
    precision = choose_precision("O2", cpu, training=True)
    copy = WorkingCopy(model, precision.working_copy(model))
    step = TrainStep(
        copy.module, create_optimizer(model, "adamw", lr=0.01), scaler=LossScaler(cpu, 64.0, dynamic=True), copy=copy,
        accumulation=2, clip_norm=1.0, ema=Ema(model, 0.9), autocast=precision.autocast, mean=Processes(count=1).mean,
        numbers=SampleNumbers(SampleSeeds().set),
    )  # fmt: skip

    class EveryFifth(Callback):
        def on_step(self, state, metrics):
            if state.step % 5 == 0:
                metrics.loss.item()

    with Reads(state) as reads:
        train(step, loader, Schedule("constant_lr", 0.01, 1, 12), state, callbacks=[EveryFifth()])
    assert reads.at == {5, 10}
