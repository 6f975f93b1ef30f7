"""The run at Weights & Biases."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.training.tracker import Note, RunId, first_line, missing

PROJECT = "t2t_vit"


class WandbTracker:
    """A tracker that writes to W&B: to the account that `wandb login` named, else to files for `wandb sync`.

    W&B's own environment variables (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, ...) win.

    Args:
        folder: the run's logs; W&B's files and the run's id are kept in it.
        name: of the run.
        config: shown beside it.
        goes_on: whether the run of the id in `folder` is continued.

    Raises:
        UserError: wandb is not installed, or refuses to begin.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], *, goes_on: bool, note: Note) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing("wandb") from error
        self._wandb = wandb
        run_id = RunId(folder, "wandb", goes_on=goes_on)
        quiet = wandb.Settings(silent=True, console="off", save_code=False, disable_git=True)
        try:
            here = os.environ.get("WANDB_MODE") or wandb.login(prompt=False, verify=False)
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=name,
                id=run_id.known,
                resume="allow",
                config=dict(config),
                allow_val_change=True,
                dir=str(folder),
                mode=None if here else "offline",
                settings=quiet,
            )
        except Exception as error:  # no server, no right, a bad variable: W&B's own sentence tells best
            raise UserError(f"tracker: wandb does not begin ({first_line(error)})") from error
        run_id.keep(self._run.id)
        where = f"files in {folder / 'wandb'} (wandb sync)" if self._run.offline else self._run.url
        note(f"tracker: wandb, run {self._run.id}, {where}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, picture: Tensor) -> None:
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # finish alone returns before W&B's own process has written everything
