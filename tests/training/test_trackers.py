"""What trackers get, and W&B and MLflow by their own packages, to files; nothing leaves this machine."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.measurements import Instruments, Norms, Reading, Utilisation
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.optimizer import create_optimizer
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics, TrainStep
from t2t_vit.training.trackers import (
    Guarded,
    MlflowTracker,
    RunId,
    ShowInputs,
    Summary,
    WandbTracker,
    check_installed,
    grid,
    scalars_of,
)


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


def test_inputs_are_shown_at_the_number_of_updates_made(make_loader):
    tracker = Remembering()
    shown = ShowInputs(make_loader(batches=9), [tracker], mean=[0.5] * 3, std=[0.5] * 3, accumulation=2)
    for epoch, start in ((0, 0), (1, 0), (1, 6)):  # an epoch has four updates, the ninth batch is left over
        next(shown.epoch(epoch, start))
    assert [step for step, _, _ in tracker.pictures] == [0, 4, 7]


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


@pytest.fixture(autouse=True)
def nothing_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)


PICTURE = torch.rand(3, 10, 12, generator=torch.Generator().manual_seed(0))


def check_picture(path: Path) -> None:
    levels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)
    assert torch.equal(levels, (PICTURE * 255).round().byte())


def wandb_records(folder: Path) -> list[dict[str, object]]:
    """What W&B would send, record by record: its file is a log as LevelDB writes it, behind 7 bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, place, block, piece = path.read_bytes(), 7, 32768, b""
    records = []
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        piece += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(piece)
            piece = b""
            if record.HasField("history"):
                items = record.history.item
                records.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return records


def test_wandb_keeps_what_comes_in_any_order_of_steps(tmp_path: Path) -> None:
    """A run that goes on from an earlier checkpoint, and inputs that are shown between two readings."""
    tracker = WandbTracker(tmp_path, "a run", {}, run="a1", goes_on=False, note=lambda _: None)
    tracker.image(8, "inputs/augmented", PICTURE)
    for step in (1, 2, 3, 2):
        tracker.scalars(step, {"train/loss": float(step)})
    tracker.close()
    records = wandb_records(tmp_path)
    assert [(record["step"], record.get("train/loss")) for record in records] == [
        (8, None), (1, 1.0), (2, 2.0), (3, 3.0), (2, 2.0)
    ]  # fmt: skip


def wandb_run(logs: Path, told: list[str], *, goes_on: bool, run: str = "a1b2c3") -> None:
    config = {"epochs": 2, "arch": "t2t_vit_7"}
    tracker = WandbTracker(logs, "a run", config, run=run, goes_on=goes_on, note=told.append)
    tracker.scalars(4, {"train/loss": 1.5})
    tracker.image(4, "inputs/augmented", PICTURE)
    tracker.scalars(8, {"train/loss": 1.25, "raw/top1": 0.5})
    tracker.close()


def test_wandb_offline_and_again_under_the_same_id(tmp_path: Path) -> None:
    told: list[str] = []
    wandb_run(tmp_path, told, goes_on=False)
    run_id = json.loads((tmp_path / "wandb.json").read_text())["run_id"]
    (written,) = (tmp_path / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")
    content = written.read_bytes()
    assert b"train/loss" in content and b"t2t_vit_7" in content
    (picture,) = (written.parent / "files/media").rglob("*.png")
    check_picture(picture)
    assert run_id in told[0] and "wandb sync" in told[0]
    wandb_run(tmp_path, told, goes_on=True)
    assert json.loads((tmp_path / "wandb.json").read_text())["run_id"] == run_id
    assert run_id == "a1b2c3"
    wandb_run(tmp_path, told, goes_on=True, run="another")
    assert json.loads((tmp_path / "wandb.json").read_text())["run_id"] == "another"


def test_wandb_without_an_account_writes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("wandb.login", lambda **_: False)
    told: list[str] = []
    wandb_run(tmp_path, told, goes_on=False)
    assert "files in" in told[0]


def mlflow_run(root: Path, told: list[str], *, goes_on: bool) -> None:
    tracker = MlflowTracker(
        root, root / "run", "a run", {"epochs": 2, "data_url": ""}, run="a1b2c3", goes_on=goes_on, note=told.append
    )
    first = 4 if not goes_on else 12
    tracker.scalars(first, {"train/loss": 1.5})
    tracker.image(first, "inputs/augmented", PICTURE)
    tracker.scalars(first + 4, {"train/loss": 1.25, "raw/top1": 0.5})
    tracker.close()


def test_mlflow_in_a_file_and_again_under_the_same_id(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    told: list[str] = []
    for goes_on in (False, True):
        mlflow_run(tmp_path, told, goes_on=goes_on)
    run_id = json.loads((tmp_path / "run/mlflow.json").read_text())["run_id"]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "t2t_vit"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (run_id, "a run", "FINISHED")
    assert run.data.params["epochs"] == "2"
    history = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "train/loss")]
    assert sorted(history) == [(4, 1.5), (8, 1.25), (12, 1.5), (16, 1.25)]
    pictures = {path.name: path for path in tmp_path.rglob("inputs/augmented/*.png")}
    assert pictures.keys() == {"4.png", "12.png"}
    check_picture(pictures["12.png"])
    assert "mlflow ui" in told[0]


def test_mlflow_at_a_place_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(UserError, match="mlflow cannot start at nonsense://nowhere"):
        mlflow_run(tmp_path, [], goes_on=False)


@pytest.mark.parametrize(("package", "run"), [("wandb", wandb_run), ("mlflow", mlflow_run)])
def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, run) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'pip install "{package}'):
        run(tmp_path, [], goes_on=False)
    with pytest.raises(UserError, match=rf'pip install "{package}'):
        check_installed(package)
    check_installed("none")


class Failing:
    def __init__(self) -> None:
        self.calls = 0

    def scalars(self, *_: object) -> None:
        self.calls += 1
        raise ConnectionError("the server\nhas gone")

    image = scalars

    def close(self) -> None:
        raise AssertionError("not after a failure")


def test_a_tracker_that_fails_is_told_once_and_left_alone() -> None:
    told: list[str] = []
    failing = Failing()
    guarded = Guarded(failing, "tracker: x", told.append)
    for step in (1, 2):
        guarded.scalars(step, {"train/loss": 1.0})
    guarded.close()
    assert told == ["tracker: x: the server; training continues without it"]
    assert failing.calls == 1


@pytest.mark.parametrize("content", ["", "[]", '{"run_id": 3}', '{"run_id": ""}', "\xff"])
def test_a_damaged_id_is_no_id(tmp_path: Path, content: str) -> None:
    (tmp_path / "wandb.json").write_text(content, encoding="latin-1")
    assert RunId(tmp_path, "wandb", run="a1", goes_on=True).known is None


def test_an_id_is_of_the_run_that_it_was_kept_for(tmp_path: Path) -> None:
    RunId(tmp_path, "mlflow", run="a1", goes_on=False).keep("x9")
    assert RunId(tmp_path, "mlflow", run="a1", goes_on=True).known == "x9"
    assert RunId(tmp_path, "mlflow", run="a1", goes_on=False).known is None
    assert RunId(tmp_path, "mlflow", run="b2", goes_on=True).known is None
    (tmp_path / "mlflow.json").write_text('{"run_id": "old"}')  # of an older version
    assert RunId(tmp_path, "mlflow", run="b2", goes_on=True).known == "old"
