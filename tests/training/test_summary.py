import math

import pytest
import torch

from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.norms import Norms
from t2t_vit.training.optimizer import create_optimizer
from t2t_vit.training.scaler import LossScaler
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics, TrainStep
from t2t_vit.training.summary import ShowInputs, Summary, grid, scalars_of
from t2t_vit.training.utilisation import Utilisation
from t2t_vit.training.window import Instruments, Reading


class Remembering:
    def __init__(self):
        self.told, self.pictures, self.closed = [], [], 0

    def scalars(self, step, values):
        self.told.append((step, dict(values)))

    def image(self, step, name, picture):
        self.pictures.append((step, name, picture))

    def close(self):
        self.closed += 1


def plain(loss, norm=1.0):
    norm = torch.tensor(norm)
    values = {"loss": torch.tensor(loss), "grad_norm": norm, "skipped": ~norm.isfinite(), "scale": torch.tensor(1.0)}
    return StepMetrics(**values, images=4)


def follow(summary, state, losses):
    for _, loss in zip(state.clock.watch(losses), losses, strict=True):
        state.step += 1
        summary.on_step(state, plain(loss))


def test_every_tracker_hears_the_same_and_only_what_is_known():
    state, trackers = State(10, 1, 10), [Remembering(), Remembering()]
    follow(Summary(state, trackers, every=2, instruments=Instruments(processes=3)), state, [1.0, 3.0, 5.0, 7.0])
    assert trackers[0].told == trackers[1].told
    (first, values), (second, later) = trackers[0].told
    assert (first, values["train/loss"], second, later["train/loss"]) == (2, 2.0, 4, 6.0)
    known = {
        "train/loss",
        "train/lr",
        "train/grad_norm",
        "speed/images_per_second",
        "speed/data_wait",
        "memory/peak_gb",
    }
    assert known <= set(values)
    assert not {"speed/mfu", "train/param_norm", "train/update_norm"} & set(values)  # nobody measured them


def test_every_name_shows_its_own_number():
    reading = Reading(
        loss=1.0, grad_norm=2.0, param_norm=3.0, update_norm=4.0, skipped=5, scale=6.0, images_per_second=7.0,
        data_wait=0.8, mfu=0.9, memory=10e9, seconds_per_step=11.0,
    )  # fmt: skip
    assert scalars_of(State(10, 1, 10, lr=12.0), reading) == {
        "train/loss": 1.0,
        "train/lr": 12.0,
        "train/grad_norm": 2.0,
        "train/param_norm": 3.0,
        "train/update_norm": 4.0,
        "train/skipped_updates": 5,
        "train/loss_scale": 6.0,
        "speed/images_per_second": 7.0,
        "speed/data_wait": 0.8,
        "speed/mfu": 0.9,
        "memory/peak_gb": 10.0,
    }


def test_accuracies_of_both_sets_of_weights_after_an_evaluation():
    state, tracker = State(10, 1, 10, step=10), Remembering()
    summary = Summary(state, [tracker])
    summary.on_epoch(state)
    assert tracker.told == []
    state.record({"raw": Metrics(1.0, 0.5, 0.9, 10), "ema": Metrics(1.5, 0.25, 0.8, 10)})
    summary.on_epoch(state)
    summary.close()
    expected = {"raw/loss": 1.0, "raw/top1": 0.5, "raw/top5": 0.9, "ema/loss": 1.5, "ema/top1": 0.25, "ema/top5": 0.8}
    assert tracker.told == [(10, expected)]
    assert tracker.closed == 1


def test_nothing_every_zero_steps():
    state, tracker = State(10, 1, 10), Remembering()
    follow(Summary(state, [tracker], every=0), state, [1.0, 2.0])
    assert tracker.told == []


def test_mfu_is_of_one_device_and_images_of_all():
    state, tracker = State(10, 1, 10), Remembering()
    instruments = Instruments(processes=2, utilisation=Utilisation(flops_per_image=100, peak=1000.0))
    follow(Summary(state, [tracker], every=1, instruments=instruments), state, [1.0])
    ((_, values),) = tracker.told
    assert values["speed/mfu"] == pytest.approx(values["speed/images_per_second"] / 2 * 100 / 1000)


def make_step(make_model, state, *every):
    model = make_model()
    optimizer = create_optimizer(model, "adamw", lr=0.01)
    norms = Norms(optimizer, state, *every)
    return model, norms, TrainStep(model, optimizer, scaler=LossScaler(torch.device("cpu")))


def test_norms_of_weights_and_updates_are_the_plain_ones_where_due(make_model, make_loader):
    state = State(8, 1, 8)
    model, norms, step = make_step(make_model, state, 3)
    for batch in make_loader().epoch(0):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        step([batch])
        state.step += 1
        param_norm, update_norm = norms.read(state.step)
        assert norms._before == []  # no copy outlives its update
        if state.step in (3, 6, 8):  # 8 ends the epoch
            after = [parameter.detach() for parameter in model.parameters()]
            moved = sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)) ** 0.5
            assert param_norm == pytest.approx(float(sum((a**2).sum() for a in after) ** 0.5), rel=1e-5)
            assert update_norm == pytest.approx(float(moved), rel=1e-5)
            assert update_norm > 0
        else:
            assert math.isnan(param_norm) and math.isnan(update_norm)


def test_norms_change_no_training(make_model, make_loader):
    ends = []
    for every in (0, 1):
        state = State(8, 1, 8)
        model, _, step = make_step(make_model, state, every)
        for batch in make_loader().epoch(0):
            step([batch])
            state.step += 1
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_inputs_are_shown_and_passed_through(make_loader, channels):
    tracker, loader = Remembering(), make_loader(batches=3)
    shown = ShowInputs(loader, [tracker], mean=[0.5] * 3, std=[0.2] * 3, count=5)
    assert len(shown) == 3
    for (images, targets), (own, classes) in zip(shown.epoch(1, start=1), loader.epoch(1, start=1), strict=True):
        assert torch.equal(images, own)
        assert torch.equal(targets, classes)
    ((step, name, picture),) = tracker.pictures
    assert (step, name, picture.shape) == (4, "inputs/augmented", (3, 6, 10))
    assert grid(torch.zeros(5, channels, 2, 2)).shape == (3, 6, 10)


def test_a_grid_shows_every_image_in_its_place():
    images = torch.rand(5, 3, 2, 2)
    for channels, shown in ((3, images), (1, images[:, :1].expand(-1, 3, -1, -1)), (4, images)):
        given = images[:, :channels] if channels < 4 else torch.cat([images, torch.rand(5, 1, 2, 2)], dim=1)
        sheet = grid(given, gap=1)
        assert sheet.shape == (3, 5, 8)
        for index, (top, left) in enumerate([(0, 0), (0, 3), (0, 6), (3, 0), (3, 3)]):
            assert torch.equal(sheet[:, top : top + 2, left : left + 2], shown[index])
        assert (sheet[:, 2] == 1).all() and (sheet[:, :, 2] == 1).all() and (sheet[:, 3:, 6:] == 1).all()


def test_shown_images_are_as_they_were_before_they_were_normalised():
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.3, 0.4)
    pixels = torch.rand(2, 3, 4, 4)
    columns = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)

    class One:
        def __len__(self):
            return 1

        def epoch(self, _epoch, _start=0):
            yield (pixels - columns[0]) / columns[1], torch.zeros(2)

    tracker = Remembering()
    list(ShowInputs(One(), [tracker], mean=mean, std=std).epoch(0))
    ((_, _, picture),) = tracker.pictures
    torch.testing.assert_close(picture, grid(pixels))
