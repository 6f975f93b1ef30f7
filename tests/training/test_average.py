"""The uniform average of the weights at the ends of epochs, and runs that go on with it."""

import sys
from pathlib import Path

import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.training.average import EpochAverage
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.checkpoint import Identity, Trained, checkpoint_content, restore, serialised, write_checkpoint
from t2t_vit.training.loop import Validation, train
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.optimizer import Schedule, create_optimizer
from t2t_vit.training.state import State
from t2t_vit.training.step import TrainStep
from t2t_vit.weights import read_saved_run

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from kill import differences

UPDATES, EPOCHS = 4, 6
KINDS = {"last_k": {"last": 3}, "swa": {"first_epoch": 4}}  # of 6 epochs, both are of 4, 5 and 6 at the end
IDENTITY = Identity("toy", {"epochs": EPOCHS}, ["cat", "dog", "owl"], "")


class Weights(Callback):
    """The weights at the end of each epoch."""

    def __init__(self, model):
        self.model, self.kept = model, []

    def on_epoch(self, _state):
        self.kept.append({name: one.detach().clone() for name, one in self.model.named_parameters()})


def setting(make_model, **kind):
    model = make_model(dropout=0.3)
    optimizer = create_optimizer(model, "adamw", lr=0.05)
    return Trained(model, optimizer, LossScaler(torch.device("cpu")), average=EpochAverage(model, **kind))


def run(trained, loader, last_step, state=None, callbacks=()):
    state = state or State(UPDATES, EPOCHS, last_step)
    step = TrainStep(trained.model, trained.optimizer, scaler=trained.scaler)
    weights = {"raw": trained.model, "ema": trained.average.module}
    validation = Validation(list(loader.epoch(99)), weights, average=trained.average)
    schedule = Schedule("constant_lr", 0.05, EPOCHS, UPDATES)
    return train(
        step, loader, schedule, state, validation=validation, average=trained.average, callbacks=callbacks, seed=3
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_the_mean_is_that_of_the_last_epochs(make_model, make_loader, kind):
    trained = setting(make_model, **kind)
    seen = Weights(trained.model)
    run(trained, make_loader(UPDATES), UPDATES * EPOCHS, callbacks=[seen])
    assert (trained.average.count, len(seen.kept)) == (3, EPOCHS)
    for name, mean in trained.average.module.named_parameters():
        torch.testing.assert_close(mean, torch.stack([kept[name] for kept in seen.kept[-3:]]).mean(0))
        assert not torch.equal(mean, seen.kept[-1][name])
    assert not trained.average.module.training
    assert trained.average.module.seen == trained.model.seen > 0  # buffers are those of the last epoch


def test_it_is_evaluated_beside_the_raw_weights_once_it_has_an_epoch(make_model, make_loader):
    names = []

    class Names(Callback):
        def on_epoch(self, state):
            names.append(sorted(state.results))

    trained = setting(make_model, first_epoch=5)
    state = run(trained, make_loader(UPDATES), UPDATES * EPOCHS, callbacks=[Names()])
    assert names == [["raw"]] * 4 + [["ema", "raw"]] * 2
    assert state.results["ema"].loss != state.results["raw"].loss
    assert trained.averaged is trained.average.module


def test_an_epoch_that_is_cut_short_does_not_count(make_model, make_loader):
    trained = setting(make_model, last=3)
    state = run(trained, make_loader(UPDATES), UPDATES - 1)
    assert (trained.average.count, trained.averaged, sorted(state.results)) == (0, None, ["raw"])
    assert checkpoint_content(IDENTITY, trained, state)["ema"] is None


def test_what_is_frozen_is_not_kept(make_model):
    model = make_model()
    model.hidden.requires_grad_(False)
    average = EpochAverage(model, last=2)
    average.follow(State(1, 1, 1, step=1))
    (kept,) = average.state_dict()["kept"]
    assert sorted(kept) == ["cls_token", "head.bias", "head.weight", "norm.bias", "norm.weight"]
    assert torch.equal(average.module.hidden.weight, model.hidden.weight)


@pytest.mark.parametrize("stopped_at", [3, 8, 14, 19, 20, 22])
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_run_goes_on_exactly(make_model, make_loader, tmp_path, kind, stopped_at):
    whole = setting(make_model, **kind)
    end = run(whole, make_loader(UPDATES), UPDATES * EPOCHS)
    first = setting(make_model, **kind)
    state = run(first, make_loader(UPDATES), stopped_at)
    path = tmp_path / "toy.ckpt"
    write_checkpoint([path], serialised(checkpoint_content(IDENTITY, first, state)), "")
    found = read_saved_run(path)
    second, state = setting(make_model, **kind), State(UPDATES, EPOCHS, UPDATES * EPOCHS)
    restore(found.content, path, second, state)
    run(second, make_loader(UPDATES), 0, state)
    assert state.results == end.results
    assert differences(whole.average.state_dict(), second.average.state_dict()) == []
    # The buffer counts forward passes, those of the evaluation at the stop too.
    assert differences(*(dict(one.average.module.named_parameters()) for one in (whole, second))) == []


def test_saved_at_the_end_of_an_epoch_before_it_is_taken_in(make_model, make_loader, tmp_path):
    """A checkpoint of the last update's step knows nothing of the average; one after the evaluation does."""
    contents = []

    class Saved(Callback):
        def on_step(self, state, _):
            if state.step == 8:
                contents.append(serialised(checkpoint_content(IDENTITY, trained, state)))

        def on_epoch(self, state):
            if state.step == 8:
                contents.append(serialised(checkpoint_content(IDENTITY, trained, state)))

    trained = setting(make_model, last=3)
    end = run(trained, make_loader(UPDATES), UPDATES * EPOCHS, callbacks=[Saved()])
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.ckpt"
        write_checkpoint([path], content, "")
        again, state = setting(make_model, last=3), State(UPDATES, EPOCHS, UPDATES * EPOCHS)
        restore(read_saved_run(path).content, path, again, state)
        assert again.average.count == number + 1
        run(again, make_loader(UPDATES), 0, state)
        assert state.results == end.results


def test_a_run_that_is_made_longer_begins_its_running_mean_anew(make_model, make_loader):
    trained = setting(make_model, first_epoch=5)
    run(trained, make_loader(UPDATES), UPDATES * EPOCHS)
    longer = setting(make_model, first_epoch=9)
    longer.average.load_state_dict(trained.average.state_dict(), trained.average.module.state_dict())
    assert (longer.average.count, longer.averaged) == (0, None)


def test_a_mean_that_began_before_the_window_of_a_longer_run_begins_anew(make_model, make_loader):
    """Also where the checkpoint's epoch lies in the new window: the older epochs in the mean do not."""
    trained = setting(make_model, first_epoch=1)
    run(trained, make_loader(UPDATES), UPDATES * EPOCHS)
    state, weights = trained.average.state_dict(), trained.average.module.state_dict()
    assert state["count"] == EPOCHS > 1
    for first, count in ((1, EPOCHS), (2, 0)):
        longer = setting(make_model, first_epoch=first)
        longer.average.load_state_dict(state, weights)
        assert longer.average.count == count


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda average: average | {"kept": 3}, "average.kept is 3"),
        (lambda average: average | {"kept": [{"head.weight": 1}]}, "average.kept is"),
        (lambda _: {"epoch": 1, "count": 1}, "average lacks epoch, count or kept"),
        (lambda average: average | {"count": -1}, "average.count is -1"),
        (lambda _: [], "average is not a dictionary"),
        (lambda average: average | {"kept": [{"head.weight": torch.ones(2)}]}, "of an epoch are of another network"),
    ],
)
def test_a_damaged_average_is_one_sentence(make_model, make_loader, tmp_path, damage, sentence):
    trained = setting(make_model, last=3)
    state = run(trained, make_loader(UPDATES), 8)
    content = checkpoint_content(IDENTITY, trained, state)
    path = tmp_path / "toy.ckpt"
    write_checkpoint([path], serialised(content | {"average": damage(content["average"])}), "")
    with pytest.raises(UserError, match=sentence):
        restore(read_saved_run(path).content, path, setting(make_model, last=3), state)
