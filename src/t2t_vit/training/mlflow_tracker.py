"""The run in MLflow."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.training.tracker import Note, RunId, first_line, missing

EXPERIMENT = "t2t_vit"
DATABASE = "mlflow.db"


class MlflowTracker:
    """A tracker that writes to MLflow: to the server that MLFLOW_TRACKING_URI names, else to `root`/mlflow.db.

    MLFLOW_EXPERIMENT_NAME wins over the experiment's own name, t2t_vit.

    Args:
        root: folder of all runs' logs, whose database they share.
        folder: this run's logs, which keep its id.
        name: of the run.
        config: becomes its parameters.
        goes_on: whether the run of the id in `folder` is continued.

    Raises:
        UserError: MLflow is not installed, or its store cannot be used.
    """

    def __init__(
        self, root: Path, folder: Path, name: str, config: Mapping[str, Any], *, goes_on: bool, note: Note
    ) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError as error:
            raise missing("mlflow") from error
        self._metric = Metric
        run_id = RunId(folder, "mlflow", goes_on=goes_on)
        for talkative in ("mlflow", "alembic"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.absolute() / DATABASE}"
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
        except Exception as error:  # no server, no right, a damaged database: MLflow's own sentence tells best
            raise UserError(f"tracker: mlflow does not begin at {uri} ({first_line(error)})") from error
        run_id.keep(self._id)
        note(f"tracker: mlflow, run {self._id}, {uri} (mlflow ui --backend-store-uri {uri})")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time())
        self._client.log_batch(self._id, metrics=[self._metric(key, value, now, step) for key, value in values.items()])

    def image(self, step: int, name: str, picture: Tensor) -> None:
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        self._client.log_image(self._id, pixels, artifact_file=f"{name}/{step}.png")

    def close(self) -> None:
        self._client.set_terminated(self._id)

    def _experiment(self, root: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else (root.absolute() / "mlflow_artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=local))
