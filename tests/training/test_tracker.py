"""W&B and MLflow by their own packages, to files; nothing leaves this machine."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.errors import UserError
from t2t_vit.training.mlflow_tracker import MlflowTracker
from t2t_vit.training.tracker import Guarded, RunId, check_installed
from t2t_vit.training.wandb_tracker import WandbTracker


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


def wandb_run(logs: Path, told: list[str], *, goes_on: bool) -> None:
    tracker = WandbTracker(logs, "a run", {"epochs": 2, "arch": "t2t_vit_7"}, goes_on=goes_on, note=told.append)
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
    wandb_run(tmp_path, told, goes_on=False)
    assert json.loads((tmp_path / "wandb.json").read_text())["run_id"] != run_id


def test_wandb_without_an_account_writes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("wandb.login", lambda **_: False)
    told: list[str] = []
    wandb_run(tmp_path, told, goes_on=False)
    assert "files in" in told[0]


def mlflow_run(root: Path, told: list[str], *, goes_on: bool) -> None:
    tracker = MlflowTracker(
        root, root / "run", "a run", {"epochs": 2, "data_url": ""}, goes_on=goes_on, note=told.append
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
    with pytest.raises(UserError, match="mlflow does not begin at nonsense://nowhere"):
        mlflow_run(tmp_path, [], goes_on=False)


@pytest.mark.parametrize(("package", "run"), [("wandb", wandb_run), ("mlflow", mlflow_run)])
def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, run) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'pip install "t2t_vit\[{package}\]"'):
        run(tmp_path, [], goes_on=False)
    with pytest.raises(UserError, match=rf'pip install "t2t_vit\[{package}\]"'):
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
    assert told == ["tracker: x: the server; training goes on without it"]
    assert failing.calls == 1


@pytest.mark.parametrize("content", ["", "[]", '{"run_id": 3}', '{"run_id": ""}', "\xff"])
def test_a_damaged_id_is_no_id(tmp_path: Path, content: str) -> None:
    (tmp_path / "wandb.json").write_text(content, encoding="latin-1")
    assert RunId(tmp_path, "wandb", goes_on=True).known is None
