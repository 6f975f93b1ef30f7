"""What every part of a training run needs to know."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.files import check_folder, remove_leftovers
from t2t_vit.precision import Precision
from t2t_vit.settings.schema import Config
from t2t_vit.training.console import Console
from t2t_vit.training.distributed import Processes


@dataclass(frozen=True)
class Folders:
    """The four folders of a run."""

    checkpoints: Path
    best: Path
    summary: Path
    logs: Path

    @classmethod
    def of(cls, config: Config) -> "Folders":
        """A folder of the run's name in each of the four roots."""
        roots = (config.ckpt_root_dir, config.best_ckpt_root_dir, config.summary_root_dir, config.logs_root_dir)
        return cls(*(Path(root) / config.run_name for root in roots))

    def check(self) -> None:
        """Refuse, before hours of work, folders that cannot be written.

        Raises:
            UserError: one of them cannot.
        """
        check_folder(self.checkpoints, "ckpt_root_dir")
        check_folder(self.best, "best_ckpt_root_dir")
        check_folder(self.summary, "summary_root_dir")
        check_folder(self.logs, "logs_root_dir")

    def sweep(self) -> None:
        """Remove halves of files that a kill left behind."""
        for folder in (self.checkpoints, self.best, self.best / "ema", self.summary, self.logs):
            remove_leftovers(folder)


@dataclass(frozen=True)
class Result:
    """What a run left behind; the metrics are of the last evaluation, by the name of the weights."""

    checkpoint: Path
    folders: Folders
    metrics: dict[str, Metrics]


@dataclass(frozen=True)
class Job:
    """What every part of a run needs to know; only the first process speaks and writes."""

    config: Config
    processes: Processes
    device: torch.device
    precision: Precision
    folders: Folders
    console: Console
    note: Callable[[str], None]
