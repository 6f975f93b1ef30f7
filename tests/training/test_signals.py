"""A stop that is asked for by a signal: when it is obeyed, and by whom."""

import os
import signal
import threading

import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.loop import Validation, train
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.optimizer import Schedule, create_optimizer
from t2t_vit.training.signals import STOPPING, Stop, Stopped, heard, stop_at_once
from t2t_vit.training.state import State
from t2t_vit.training.step import TrainStep


class Signals(Callback):
    """Sends this process a signal after a step, or within an evaluation; remembers how the run stopped."""

    def __init__(self, at_step: int = 0, at_batch: int = 0, number: int = signal.SIGTERM) -> None:
        self.at_step, self.at_batch, self.number = at_step, at_batch, number
        self.events: list[object] = []

    def on_step(self, state, _metrics):
        if state.step == self.at_step:
            os.kill(os.getpid(), self.number)

    def on_evaluated(self, weights, done, batches):
        self.events.append((weights, done, batches))
        if done == self.at_batch:
            os.kill(os.getpid(), self.number)

    def on_epoch(self, state):
        self.events.append(f"epoch {state.step}")

    def on_stop(self, state, whole):
        self.events.append((state.step, whole, state.closed_at))


def run(model, loader, callback, *, validation=None, state=None, step=None, stop=None):
    state = state or State.begin(len(loader), epochs=3)
    schedule = Schedule("constant_lr", 0.01, 3, state.updates_per_epoch)
    step = step or TrainStep(model, create_optimizer(model, "adamw", lr=0.01), scaler=LossScaler(torch.device("cpu")))
    return train(step, loader, schedule, state, validation=validation, callbacks=[callback], stop=stop)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130), ("SIGHUP", 129)])
def test_the_present_step_is_the_last(make_model, make_loader, number, code):
    callback = Signals(at_step=3, number=signal.Signals[number])
    with pytest.raises(Stopped) as stopped:
        run(make_model(), make_loader(), callback)
    assert (stopped.value.code, stopped.value.name) == (code, number)
    assert callback.events == [(3, True, 0)]


def test_handlers_are_put_back(make_model, make_loader):
    before = [signal.getsignal(number) for number in STOPPING]
    run(make_model(), make_loader(batches=2), Callback())
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.fixture(autouse=True)
def handlers():
    """A run that was stopped leaves the process deaf, which here goes on."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_evaluation_is_broken_off_and_made_up_for(make_model, make_loader):
    model, loader = make_model(), make_loader(batches=4)
    validation = Validation(list(loader.epoch(99)), {"raw": model})
    callback = Signals(at_batch=2)
    state = State.begin(len(loader), epochs=3)
    step = TrainStep(model, create_optimizer(model, "adamw", lr=0.01), scaler=LossScaler(torch.device("cpu")))
    with pytest.raises(Stopped):
        run(model, loader, callback, validation=validation, state=state, step=step)
    assert callback.events == [("raw", 1, 4), ("raw", 2, 4), (4, True, 0)]
    assert model.training
    going_on = Signals()
    run(model, loader, going_on, validation=validation, state=state, step=step)
    assert going_on.events[:5] == [*(("raw", done, 4) for done in (1, 2, 3, 4)), "epoch 4"]
    assert state.step == 12


class Compiling(TrainStep):
    """A first step that takes long."""

    def __call__(self, *_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal should have ended this")


def test_before_the_first_update_nothing_waits(make_model, make_loader):
    model, callback = make_model(), Signals()
    step = Compiling(model, create_optimizer(model, "adamw", lr=0.01), scaler=LossScaler(torch.device("cpu")))
    with pytest.raises(Stopped):
        run(model, make_loader(), callback, step=step)
    assert callback.events == [(0, False, 0)]


class Agreed:
    """Another process has heard a signal, which is found out after a few rounds."""

    def __init__(self, after: int) -> None:
        self.after, self.events = after, []

    def turn(self, number):
        self.events.append(number)
        return 2 * signal.SIGUSR1 if len(self.events) > self.after else 0

    def largest(self, number):
        return number + 1

    def finish(self):
        self.events.append("finish")

    def meet(self):
        self.events.append("meet")


def test_all_stop_where_they_agree(make_model, make_loader):
    agreed, callback = Agreed(4), Signals()
    with pytest.raises(Stopped) as stopped:
        run(make_model(), make_loader(), callback, stop=Stop(agreed))
    assert stopped.value.code == 138
    assert callback.events == [(5, True, 0)]
    assert agreed.events == [0, 0, 0, 0, 0, "meet"]


def test_a_process_with_fewer_batches_keeps_step():
    agreed = Agreed(99)
    assert list(Stop(agreed).watch([1, 2, 3])) == [1, 2, 3]
    assert agreed.events == [0, 0, 0, 0]


def test_of_several_processes_the_third_ctrl_c_hurries():
    stop = Stop(Agreed(99))
    stop.request(signal.SIGINT)
    stop.request(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop.request(signal.SIGINT)
    alone = Stop()
    alone.request(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        alone.request(signal.SIGINT)


def test_an_error_that_the_signal_brought_is_the_signals():
    class Place:
        step = 0

    stop = Stop(Agreed(99))
    with pytest.raises(Stopped), stop.during(Place()):
        stop.request(signal.SIGTERM)
        raise RuntimeError("a compiler was killed")
    with pytest.raises(UserError), Stop().during(Place()):
        raise UserError("a mistake")
    with pytest.raises(RuntimeError), Stop().during(Place()):
        raise RuntimeError("a defect")


def test_outside_the_main_thread_and_where_it_was_ignored_nothing_is_touched():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with heard(stop_at_once):
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    seen = []

    def elsewhere():
        with heard(stop_at_once):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
