"""The numbers and images of a run for trackers: TensorBoard (tensorboard.py), W&B and MLflow."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Any, Protocol

import torch
from torch import Tensor

from t2t_vit.errors import UserError, first_line
from t2t_vit.evaluation.metrics import SCORES
from t2t_vit.files import read_json, write_json
from t2t_vit.installing import not_installed
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.loop import TrainBatches
from t2t_vit.training.measurements import ON_ONE_CPU, Instruments, Reading, StepWindow
from t2t_vit.training.state import State
from t2t_vit.training.step import Batch, StepMetrics

Note = Callable[[str], None]


class Tracker(Protocol):
    """Takes numbers and images of a run; the x axis is the number of updates."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of the moment after update `step`, by names such as train/loss."""

    def image(self, step: int, name: str, image: Tensor) -> None:
        """An image (3, H, W) in 0..1."""

    def close(self) -> None:
        """Send what is still here, and end."""


class Guarded:
    """A tracker whose failure is reported once, ends the tracking, and never the training."""

    def __init__(self, tracker: Tracker, name: str, note: Note) -> None:
        self._tracker: Tracker | None = tracker
        self._name, self._note = name, note

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._attempt(lambda tracker: tracker.scalars(step, values))

    def image(self, step: int, name: str, image: Tensor) -> None:
        self._attempt(lambda tracker: tracker.image(step, name, image))

    def close(self) -> None:
        self._attempt(lambda tracker: tracker.close())

    def _attempt(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:  # a tracker's server, disk or account may fail in any way
            self._tracker = None
            self._note(f"{self._name}: {first_line(error)}; training continues without it")


def check_installed(tracker: str) -> None:
    """Refuse a tracker whose package is not there, before anything has begun.

    Raises:
        UserError: with the command that installs it.
    """
    try:
        found = tracker == "none" or find_spec(tracker) is not None
    except ValueError:  # a module without a spec
        found = False
    if not found:
        raise missing(tracker)


def missing(tracker: str) -> UserError:
    """The error where the tracker's package, or one that it needs, is not installed."""
    return UserError(not_installed(f"tracker: {tracker}", tracker))


class RunId:
    """The id of the run at a tracker, kept in `folder`, so that a continued run is the same run there, too.

    Args:
        run: the run's own id; what was kept for another run is not taken.
    """

    def __init__(self, folder: Path, name: str, *, run: str, goes_on: bool) -> None:
        self._path, self._run = folder / f"{name}.json", run
        self.known: str | None = self._read() if goes_on else None

    def keep(self, run_id: str) -> None:
        """Remember it.

        Raises:
            UserError: the folder cannot be written.
        """
        write_json(self._path, {"run_id": run_id, "run": self._run}, indent=None)

    def _read(self) -> str | None:
        try:
            kept = read_json(self._path)
            run_id, run = kept["run_id"], kept.get("run", self._run)  # older versions kept no run
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return run_id if isinstance(run_id, str) and run_id and run == self._run else None


class Summary(Callback):
    """Gives each tracker train/*, speed/* and memory/* every `every` steps (0: none), raw/* and ema/* if evaluated.

    A number that is not known, or not finite, is left out.
    """

    def __init__(
        self, state: State, trackers: Sequence[Tracker], *, every: int = 20, instruments: Instruments = ON_ONE_CPU
    ) -> None:
        self._trackers, self._every, self._window = trackers, every, StepWindow(state, instruments)

    def on_step(self, state: State, metrics: StepMetrics) -> None:
        if not self._every:
            return
        self._window.add(metrics)
        if state.step % self._every == 0:
            self._show(state, scalars_of(state, self._window.read()))

    def on_epoch(self, state: State) -> None:
        if state.evaluated:
            results = state.results.items()
            self._show(state, {f"{w}/{name}": getattr(metrics, name) for w, metrics in results for name in SCORES})

    def state_dict(self) -> dict[str, Any]:
        return {"window": self._window.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._window.load_state_dict(state["window"] if state else {})

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()

    def _show(self, state: State, values: dict[str, float]) -> None:
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.scalars(state.step, known)


def scalars_of(state: State, reading: Reading) -> dict[str, float]:
    """A reading under the names that trackers show."""
    return {
        "train/loss": reading.loss,
        "train/lr": state.lr,
        "train/grad_norm": reading.grad_norm,
        "train/param_norm": reading.param_norm,
        "train/update_norm": reading.update_norm,
        "train/skipped_updates": reading.skipped,
        "train/loss_scale": reading.scale,
        "speed/images_per_second": reading.images_per_second,
        "speed/data_wait": reading.data_wait,
        "speed/mfu": reading.mfu,
        "memory/peak_gb": reading.memory / 1e9,
    }


class ShowInputs:
    """A loader that passes everything through and shows the first batch of each epoch as a grid of images.

    Args:
        mean, std: of each channel, which the images were normalised with.
        accumulation: batches of one update, by which the trackers count.
        count: images in the grid, at most.
    """

    def __init__(
        self,
        loader: TrainBatches,
        trackers: Sequence[Tracker],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        accumulation: int = 1,
        count: int = 64,
    ) -> None:
        self._loader, self._trackers, self._accumulation, self._count = loader, trackers, accumulation, count
        self._mean, self._std = (torch.tensor(list(values))[:, None, None] for values in (mean, std))

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The loader's own batches."""
        step = epoch * (len(self) // self._accumulation) + start // self._accumulation  # updates made before
        for index, (images, targets) in enumerate(self._loader.epoch(epoch, start)):
            if index == 0:
                shown = images[: self._count].float().cpu() * self._std + self._mean  # (N, C, H, W)
                sheet = grid(shown.clamp(0, 1))
                for tracker in self._trackers:
                    tracker.image(step, "inputs/augmented", sheet)
            yield images, targets


def grid(images: Tensor, gap: int = 2) -> Tensor:
    """Images (N, C, H, W) side by side in a square of rows, (3, H', W'), `gap` white pixels between them."""
    if images.shape[1] != 3:
        images = images[:, :3] if images.shape[1] > 3 else images[:, :1].expand(-1, 3, -1, -1)
    count, _, height, width = images.shape
    columns = int(count**0.5 + 0.999)
    rows = -(-count // columns)
    sheet = torch.ones(3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


MLFLOW_EXPERIMENT = "t2t_vit"
MLFLOW_DATABASE = "mlflow.db"


class MlflowTracker:
    """A tracker that writes to MLflow: to the server that MLFLOW_TRACKING_URI names, else to `root`/mlflow.db.

    MLFLOW_EXPERIMENT_NAME wins over the experiment's own name, t2t_vit.

    Args:
        root: folder of all runs' logs, whose database they share.
        folder: this run's logs, which keep its id.
        name: of the run.
        config: becomes its parameters.
        run: the run's id.
        goes_on: whether the run of the id in `folder` is continued.

    Raises:
        UserError: MLflow is not installed, or its store cannot be used.
    """

    def __init__(
        self, root: Path, folder: Path, name: str, config: Mapping[str, Any], *, run: str, goes_on: bool, note: Note
    ) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError as error:
            raise missing("mlflow") from error
        self._metric = Metric
        run_id = RunId(folder, "mlflow", run=run, goes_on=goes_on)
        for talkative in ("mlflow", "alembic"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.absolute() / MLFLOW_DATABASE}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(tracking_uri=uri)
            if run_id.known is not None:
                self._id = run_id.known
                self._client.update_run(self._id, status="RUNNING")
            else:
                self._id = self._client.create_run(self._experiment(root), run_name=name).info.run_id
                settings = [Param(key, str(value)) for key, value in config.items()]
                self._client.log_batch(self._id, params=settings)
        except ImportError as error:  # the small MLflow alone has no database
            raise missing("mlflow") from error
        except Exception as error:  # no server, no right, a damaged database: MLflow's own message is the clearest
            raise UserError(f"tracker: mlflow cannot start at {uri} ({first_line(error)})") from error
        run_id.keep(self._id)
        note(f"tracker: mlflow, run {self._id}, {uri} (mlflow ui --backend-store-uri {uri})")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time())
        self._client.log_batch(self._id, metrics=[self._metric(key, value, now, step) for key, value in values.items()])

    def image(self, step: int, name: str, image: Tensor) -> None:
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        self._client.log_image(self._id, pixels, artifact_file=f"{name}/{step}.png")

    def close(self) -> None:
        self._client.set_terminated(self._id)

    def _experiment(self, root: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or MLFLOW_EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else (root.absolute() / "mlflow_artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=local))


WANDB_PROJECT = "t2t_vit"


class WandbTracker:
    """A tracker that writes to W&B: to the account that `wandb login` named, else to files for `wandb sync`.

    W&B's own environment variables (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, ...) win. The number of updates is the
    field `step` of each record, over which W&B draws all others; records with an earlier one than before are kept, too.

    Args:
        folder: the run's logs; W&B's files and the run's id are kept in it.
        name: of the run.
        config: the run's settings, shown with it.
        run: the run's id, which is W&B's for it, too.
        goes_on: whether the run of the id in `folder` is continued.

    Raises:
        UserError: wandb is not installed, or refuses to begin.
    """

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], *, run: str, goes_on: bool, note: Note
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing("wandb") from error
        self._wandb = wandb
        run_id = RunId(folder, "wandb", run=run, goes_on=goes_on)
        quiet = wandb.Settings(silent=True, console="off", save_code=False, disable_git=True)
        try:
            here = os.environ.get("WANDB_MODE") or wandb.login(prompt=False, verify=False)
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
                name=name,
                id=run_id.known or run,
                resume="allow",
                config=dict(config),
                allow_val_change=True,
                dir=str(folder),
                mode=None if here else "offline",
                settings=quiet,
            )
            self._run.define_metric("*", step_metric="step")
        except Exception as error:  # no server, no right, a bad variable: W&B's own message is the clearest
            raise UserError(f"tracker: wandb cannot start ({first_line(error)})") from error
        run_id.keep(self._run.id)
        where = f"files in {folder / 'wandb'} (wandb sync)" if self._run.offline else self._run.url
        note(f"tracker: wandb, run {self._run.id}, {where}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def image(self, step: int, name: str, image: Tensor) -> None:
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        self._run.log({name: self._wandb.Image(pixels), "step": step})

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # finish alone returns before W&B's own process has written everything
