"""Going on from a checkpoint's content, with every optimizer, and what the folders then hold."""

import json
import math
import random
import sys
import warnings
from pathlib import Path

import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.checkpoint import (
    Identity,
    Trained,
    checkpoint_content,
    recall,
    restore,
    restore_optimizer,
    serialised,
    write_checkpoint,
)
from t2t_vit.training.divergence import StopOnDivergence
from t2t_vit.training.ema import Ema
from t2t_vit.training.journal import Console, History, Journal
from t2t_vit.training.limits import EarlyStopping, TimeLimit
from t2t_vit.training.loop import train
from t2t_vit.training.measurements import Instruments, Norms
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.optimizer import Schedule, create_optimizer, set_lr
from t2t_vit.training.retention import CheckpointFolder
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics, TrainStep
from t2t_vit.weights import read_saved_run
from waiting_checkpoints import Waiting

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from kill import differences

CPU = torch.device("cpu")
IDENTITY = Identity("toy", {"epochs": 3}, ["cat", "dog", "owl"], "epochs: 3\n")
STEPS, STOPPED_AT = 8, 5
# One of each kind that keeps its state in a way of its own: counters in the groups, random numbers, wrapped optimizers.
OPTIMIZERS = [
    "adamw",
    "momentum",
    "sgd",
    "lion",
    "muon",
    "adafactor",
    "adafactorbv",
    "lamb",
    "lookahead_adamw",
    "lookahead_sgd",
    "madgrad",
    "nadam",
    "radam",
    "adan",
    "adopt",
    pytest.param("kron", marks=pytest.mark.thorough),
    "laprop",
    "mars",
    "novograd",
    "rmsprop",
    "rmsproptf",
    "adabelief",
    "adamp",
    "sgdp",
    "lars",
    "adagrad",
    "adadelta",
    "adamax",
    "nadamw",
    "csgdw",
]


def setting(make_model, name="adamw", scale=1.0):
    model = make_model(dropout=0.3)
    optimizer = create_optimizer(model, name, lr=0.01, weight_decay=0.05)
    scaler = LossScaler(CPU, scale, dynamic=scale != 1.0, growth_interval=3)
    return Trained(model, optimizer, scaler, Ema(model, 0.9))


def run(trained, loader, state):
    step = TrainStep(trained.model, trained.optimizer, scaler=trained.scaler, ema=trained.ema, clip_norm=1.0)
    return train(step, loader, Schedule("cosine_lr", 0.01, 2, state.updates_per_epoch, warmup_length=1), state, seed=3)


def saved(trained, state, path):
    write_checkpoint([path], serialised(checkpoint_content(IDENTITY, trained, state)), "")
    return read_saved_run(path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_exactly(make_model, make_loader, tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's and torch's own about their optimizers
        whole = setting(make_model, name, scale=64.0)
        run(whole, make_loader(4), State(4, 2, STEPS))
        first = setting(make_model, name, scale=64.0)
        state = run(first, make_loader(4), State(4, 2, STOPPED_AT))
        found = saved(first, state, tmp_path / "toy-2_5.ckpt")
        second, state = setting(make_model, name, scale=64.0), State(4, 2, STEPS)
        restore(found.content, found.path, second, state)
        assert (state.step, state.closed_at, state.lr) == (5, 5, first.optimizer.param_groups[0]["lr"])
        run(second, make_loader(4), state)
    for part in ("model", "optimizer", "scaler"):
        one, two = (getattr(trained, part).state_dict() for trained in (whole, second))
        assert differences(one, two) == []
    assert differences(whole.ema.module.state_dict(), second.ema.module.state_dict()) == []


def test_settings_of_the_line_win_over_the_groups_of_the_file(make_model):
    model = make_model()
    old = create_optimizer(model, "adamw", lr=0.1, weight_decay=0.05, betas=(0.5, 0.6))
    new = create_optimizer(model, "adamw", lr=0.1, weight_decay=0.2, betas=(0.7, 0.8))
    restore_optimizer(new, old.state_dict())
    assert [group["weight_decay"] for group in new.param_groups] == [0.2, 0.0]
    assert new.param_groups[0]["betas"] == (0.7, 0.8)
    for setting, before, now in (("eps", 1e-3, 1e-5), ("momentum", 0.5, 0.7)):
        name = "adamw" if setting == "eps" else "momentum"
        old, new = (create_optimizer(model, name, lr=0.1, **{setting: value}) for value in (before, now))
        restore_optimizer(new, old.state_dict())
        assert [group[setting] for group in new.param_groups] == [now, now]
    old, new = (create_optimizer(model, name, lr=0.1, momentum=0.9) for name in ("momentum", "sgd"))
    restore_optimizer(new, old.state_dict())
    assert [group["nesterov"] for group in new.param_groups] == [True, True]


def test_what_the_run_has_come_to_wins_over_the_present_groups(make_model):
    """The learning rate of the last update, and the shares that layers have in it."""

    def scales(factor):
        return {name: factor if name.startswith("head") else 1.0 for name, _ in model.named_parameters()}

    model = make_model()
    old, new = (create_optimizer(model, "adamw", lr=0.1, lr_scales=scales(factor)) for factor in (0.25, 0.5))
    set_lr(old, 0.02)
    restore_optimizer(new, old.state_dict())
    assert [(group["lr_scale"], group["lr"]) for group in new.param_groups] == [
        *[(0.25, 0.005)] * 2,
        *[(1.0, 0.02)] * 2,
    ]


def test_everything_is_brought_back(make_model, make_loader, tmp_path):
    first = setting(make_model, scale=64.0)
    state = run(first, make_loader(4), State(4, 2, STOPPED_AT))
    state.record({"raw": Metrics(1.5, 0.25, 0.75, 40), "ema": Metrics(2.5, 0.5, 1.0, 40)})
    found = saved(first, state, tmp_path / "toy-2_5.ckpt")
    assert not torch.equal(first.model.head.weight, first.ema.module.head.weight)
    for last_step, ended in ((STOPPED_AT, True), (STEPS, False)):  # for longer than it was begun for: not at its end
        second, again = setting(make_model, scale=64.0), State(4, 2, last_step)
        restore(found.content, found.path, second, again)
        assert (again.step, again.lr, again.evaluated_at, again.closed_at) == (5, state.lr, 5, 5)
        assert again.lr > 0 and again.ended is ended
        assert again.results == state.results and again.evaluated
        for one, two in ((first.model, second.model), (first.ema.module, second.ema.module)):
            assert differences(one.state_dict(), two.state_dict()) == []
        assert differences(first.optimizer.state_dict(), second.optimizer.state_dict()) == []
        assert differences(first.scaler.state_dict(), second.scaler.state_dict()) == []


def test_state_of_another_type_than_the_weight_is_not_rounded(make_model):
    model = make_model().half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    exact = {0: {"momentum_buffer": torch.full((1, 1, 12), 1 / 3)}}
    restore_optimizer(optimizer, {**optimizer.state_dict(), "state": exact})
    assert torch.equal(optimizer.state[model.cls_token]["momentum_buffer"], exact[0]["momentum_buffer"])


def test_what_does_not_fit_is_one_sentence(make_model, tmp_path):
    trained = setting(make_model)
    found = saved(trained, State(4, 2, 8, step=3), tmp_path / "toy-1_3.ckpt")
    for part, value in (("model", {}), ("ema", None), ("optimizer", {"state": {}, "param_groups": []}), ("metrics", 3)):
        with pytest.raises(UserError, match=r"toy-1_3\.ckpt: its run cannot be continued: it does not match"):
            restore({**found.content, part: value}, found.path, setting(make_model), State(4, 2, 8))
    with pytest.raises(UserError, match="does not match"):
        recall({"followers": {"StopOnDivergence": 7}}, found.path, [StopOnDivergence()])


@pytest.mark.parametrize("name", ["adamw", "momentum", "adafactor", "muon"])
@pytest.mark.parametrize(
    "value", [torch.zeros(1), torch.zeros(0), torch.zeros(3, 3), torch.zeros(8, dtype=torch.int64)]
)
def test_state_that_belongs_to_other_weights_never_reaches_the_optimizer(make_model, make_loader, name, value):
    """A fused optimizer reads and writes as far as the weight goes, whatever the state's size."""
    trained = setting(make_model, name)
    run(trained, make_loader(4), State(4, 2, STOPPED_AT))
    content = trained.optimizer.state_dict()
    number, state = next((number, state) for number, state in content["state"].items() if len(state) > 1 or state)
    moment = next(name for name, tensor in state.items() if isinstance(tensor, torch.Tensor) and name != "step")
    spoilt = {**content, "state": {**content["state"], number: {**state, moment: value}}}
    with pytest.raises(ValueError, match=f"the optimizer's {moment} is|the optimizer cannot continue from its state"):
        restore_optimizer(setting(make_model, name).optimizer, spoilt)


def test_an_epoch_that_was_not_closed_comes_first():
    state = State(4, 3, 12, step=4)
    assert (state.epoch_end, state.complete) == (4, False)
    state.close_epoch()
    assert state.epoch_end == 8
    state.step = 12
    assert (state.epoch_end, state.finished, state.complete) == (12, True, False)
    state.close_epoch()
    assert state.complete


def at(step):
    return State(4, 9, 36, step=step)


@pytest.fixture
def make(make_model, tmp_path):
    trained = setting(make_model)

    def make(folder="ckpt", **settings):
        best = tmp_path / f"{folder}-best"
        return Waiting(tmp_path / folder, best, IDENTITY, trained, note=lambda _: None, **settings)

    return make


def go_on(checkpoints, path, step, damaged=()):
    checkpoints.go_on(read_saved_run(path).content, path, at(step), damaged)


def names(folder):
    return sorted(path.name for path in folder.glob("*-*.ckpt"))


def test_the_newest_of_the_list_are_kept_and_damaged_ones_go_first(tmp_path, make):
    first = make(every_steps=1)
    first.begin()
    for step in (1, 2, 3, 4):
        first.on_step(at(step), None)
    (tmp_path / "ckpt/toy-1_4.ckpt").write_bytes(b"PK")
    (tmp_path / "ckpt/toy-7_28.ckpt").write_bytes(b"somebody's")
    (tmp_path / "ckpt/toy-1_2.ckpt").unlink()  # killed between the two files of one checkpoint
    again = make(keep_num=3, every_steps=1)
    go_on(again, tmp_path / "ckpt/toy-1_3.ckpt", 3, [tmp_path / "ckpt/toy-1_4.ckpt"])
    assert [path.name for path in again.kept] == ["toy-1_4.ckpt", "toy-1_1.ckpt", "toy-1_3.ckpt"]
    assert not (tmp_path / "ckpt/toy-1_2.yaml").exists()
    again.on_step(State(5, 9, 45, step=5), None)
    assert names(tmp_path / "ckpt") == ["toy-1_1.ckpt", "toy-1_3.ckpt", "toy-1_5.ckpt", "toy-7_28.ckpt"]


def test_checkpoints_past_the_one_that_is_continued_are_nobodys(tmp_path, make):
    first = make(every_steps=1)
    for step in (1, 2, 3):
        first.on_step(at(step), None)
    again = make(keep_num=1, every_steps=1)
    go_on(again, tmp_path / "ckpt/toy-1_1.ckpt", 1)
    assert [path.name for path in CheckpointFolder(tmp_path / "ckpt").files()] == ["toy-1_1.ckpt"]
    again.on_step(at(2), None)
    assert names(tmp_path / "ckpt") == ["toy-1_2.ckpt", "toy-1_3.ckpt"]


def test_a_file_from_elsewhere_is_written_again_here(tmp_path, make):
    other = make("other", every_steps=1)
    other.on_step(at(2), None)
    again = make(keep_num=1)
    go_on(again, tmp_path / "other/toy-1_2.ckpt", 2)
    assert names(tmp_path / "ckpt") == names(tmp_path / "other") == ["toy-1_2.ckpt"]
    assert (tmp_path / "ckpt/last.ckpt").resolve() == tmp_path / "ckpt/toy-1_2.ckpt"


def test_a_best_one_that_was_pushed_out_but_not_deleted_is_deleted(tmp_path, make, monkeypatch):
    def evaluated(step, top1):
        state = at(step)
        state.record({"raw": Metrics(1.0, top1, 1.0, 10)})
        return state

    first = make(best_num=1)
    first.on_epoch(evaluated(4, 0.1))
    with monkeypatch.context() as patch:
        patch.setattr("t2t_vit.training.retention.remove_checkpoint", lambda _: None)
        first.on_epoch(evaluated(8, 0.2))
    assert names(tmp_path / "ckpt-best") == ["toy-1_4.ckpt", "toy-2_8.ckpt"]
    again = make(best_num=1)
    go_on(again, tmp_path / "ckpt-best/toy-2_8.ckpt", 8)
    assert names(tmp_path / "ckpt-best") == ["toy-2_8.ckpt"]
    assert [entry["step"] for entry in again.best["raw"].entries] == [8]


def test_the_list_of_a_folder_names_no_other_folder(tmp_path):
    shelf = CheckpointFolder(tmp_path)
    for text in ('["../toy-1_1.ckpt"]', '["/toy-1_1.ckpt"]', "{}", "[1]", "half a"):
        (tmp_path / "checkpoints.json").write_text(text)
        (tmp_path / "toy-1_2.ckpt").write_text("x")
        assert [path.name for path in shelf.files()] == ["toy-1_2.ckpt"]  # as where there is no list


def test_a_file_from_past_the_step_that_is_continued_does_not_pass_for_the_one_to_come(tmp_path):
    shelf = CheckpointFolder(tmp_path)
    shelf.announce([])
    (tmp_path / "toy-1_2.ckpt").write_text("of an earlier attempt")
    assert shelf.files() == []
    shelf.announce(["toy-1_2.ckpt"])
    assert shelf.files() == []


def test_a_list_of_an_older_version_is_one_of_names(tmp_path):
    for name in ("toy-1_1.ckpt", "toy-1_2.ckpt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "checkpoints.json").write_text('["toy-1_2.ckpt"]')
    assert [path.name for path in CheckpointFolder(tmp_path).files()] == ["toy-1_2.ckpt"]


def test_the_list_says_whose_it_is(tmp_path):
    CheckpointFolder(tmp_path, {"id": "a1", "name": "toy"}, "best").announce(["toy-1_2.ckpt"])
    content = json.loads((tmp_path / "checkpoints.json").read_text())
    assert content == {"run": {"id": "a1", "name": "toy"}, "kind": "best", "files": ["toy-1_2.ckpt"]}


def test_rows_of_an_epoch_that_is_told_again_are_dropped(tmp_path):
    history = History(tmp_path)
    for kind, step in (("step", 3), ("step", 4), ("epoch", 4), ("step", 5)):
        history.add({"kind": kind, "step": step})
    History(tmp_path, 4, closed=True)
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 3
    History(tmp_path, 4, closed=False)
    assert (tmp_path / "history.jsonl").read_text().count('epoch",') == 0
    assert (tmp_path / "history.csv").read_text().splitlines()[1:] == [
        line for line in (tmp_path / "history.csv").read_text().splitlines() if line.startswith("step")
    ]


def test_skipped_updates_are_counted_across_a_stop(tmp_path):
    def metrics(skipped):
        zero = torch.zeros(())
        return StepMetrics._make([torch.tensor(skipped) if name == "skipped" else zero for name in StepMetrics._fields])

    log = tmp_path / "skipped.jsonl"
    first = StopOnDivergence(3, log=log)
    for step in (1, 2):
        first.on_step(at(step), metrics(True))
    state = first.state_dict()
    first.on_stop(at(2), True)  # tells the rows that the continued run will tell
    again = StopOnDivergence(3, log=log)
    again.load_state_dict(state)
    with pytest.raises(UserError, match="3 updates in a row"):
        again.on_step(at(3), metrics(True))
    assert log.read_text().count("step") == 3


def test_every_callback_gets_its_own_state_back():
    class Kept(Callback):
        def load_state_dict(self, state):
            self.state = state

    class Other(Kept):
        pass

    one, two, three = Kept(), Other(), Callback()
    recall({"followers": {"Kept": {"a": 1}, "Stranger": {"b": 2}}}, Path("x"), [one, two, three])
    assert (one.state, two.state) == ({"a": 1}, {})


def test_checkpoints_stand_in_the_order_of_their_steps(tmp_path):
    for name in ("toy-10_100.ckpt", "toy-9_90.ckpt", "toy-1_9.ckpt", "toy-2_11.ckpt"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in CheckpointFolder(tmp_path).files()] == [
        *("toy-1_9.ckpt", "toy-2_11.ckpt", "toy-9_90.ckpt", "toy-10_100.ckpt")
    ]


def test_a_callback_without_a_state_needs_none():
    recall({"followers": {}}, Path("x"), [Callback()])


class Followers:
    """The callbacks that keep something, as a run has them."""

    def __init__(self, trained, state):
        instruments = Instruments(CPU, norms=Norms(trained.optimizer, state, 1))
        self.all = [
            StopOnDivergence(),
            EarlyStopping(3, "top1", lambda _: None),
            TimeLimit(5, state),
            Journal(state, Console(quiet=True), every=3, instruments=instruments),
        ]


def leaves(value, place=()):
    """Every place in a content, those of containers too."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        yield from leaves(item, (*place, key))


def replaced(content, place, value):
    if not place:
        return value
    if isinstance(content, tuple):
        return (*content[: place[0]], replaced(content[place[0]], place[1:], value), *content[place[0] + 1 :])
    copy = content.copy()
    copy[place[0]] = replaced(content[place[0]], place[1:], value)
    return copy


SPOILT = [
    None, -1, 2**70, math.nan, "text", [], {}, {"a": 1}, torch.zeros(0), torch.tensor(math.nan), torch.zeros(7, 2),
    torch.zeros(3, dtype=torch.complex64), torch.full((), -3, dtype=torch.int64), torch.zeros(1, 10**5),
]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["adamw", "momentum", "lion"])
def test_a_checkpoint_with_anything_in_any_place_is_continued_or_one_sentence(make_model, make_loader, tmp_path, name):
    """Each entry in turn replaced by values of other kinds: restored, then trained on. Nothing else may come out."""
    trained, state = setting(make_model, name, scale=64.0), State(4, 2, STOPPED_AT)
    followers = Followers(trained, state)
    step = TrainStep(trained.model, trained.optimizer, scaler=trained.scaler, ema=trained.ema, clip_norm=1.0)
    train(step, make_loader(4), Schedule("cosine_lr", 0.01, 2, 4, warmup_length=1), state, callbacks=followers.all)
    path = tmp_path / "toy-2_5.ckpt"
    told = {type(each).__name__: each.state_dict() for each in followers.all}
    whole = checkpoint_content(IDENTITY, trained, state, followers=told)
    places = list(leaves(whole))
    assert len(places) > 60
    rng, refused = random.Random(2), 0
    for place in places:
        for value in rng.sample(SPOILT, 4):
            torch.save(replaced(whole, place, value), path)
            again, later = setting(make_model, name, scale=64.0), State(4, 2, STEPS)
            try:
                found = read_saved_run(path)
                restore(found.content, found.path, again, later)
                following = Followers(again, later).all
                recall(found.content, found.path, following)
            except UserError as error:
                assert str(error).startswith(f"{path}: ") and len(str(error)) < 700
                refused += 1
                continue
            step = TrainStep(again.model, again.optimizer, scaler=again.scaler, ema=again.ema, clip_norm=1.0)
            train(step, make_loader(4), Schedule("cosine_lr", 0.01, 2, 4), later, callbacks=following)
    assert refused > 100
