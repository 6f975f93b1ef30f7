"""Where numbers of a run are shown while it goes on: one small interface for TensorBoard, W&B and MLflow."""

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write

Note = Callable[[str], None]


class Tracker(Protocol):
    """Takes numbers and pictures of a run; the x axis is the number of updates."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of the moment after update `step`, by names such as train/loss."""

    def image(self, step: int, name: str, picture: Tensor) -> None:
        """A picture (3, H, W) in 0..1."""

    def close(self) -> None:
        """Send what is still here, and end."""


class Guarded:
    """A tracker whose failure is told once, ends the tracking, and never the training."""

    def __init__(self, tracker: Tracker, name: str, note: Note) -> None:
        self._tracker: Tracker | None = tracker
        self._name, self._note = name, note

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._attempt(lambda tracker: tracker.scalars(step, values))

    def image(self, step: int, name: str, picture: Tensor) -> None:
        self._attempt(lambda tracker: tracker.image(step, name, picture))

    def close(self) -> None:
        self._attempt(lambda tracker: tracker.close())

    def _attempt(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:  # a tracker's server, disk or account may fail in any way
            self._tracker = None
            self._note(f"{self._name}: {first_line(error)}; training goes on without it")


def check_installed(tracker: str) -> None:
    """Refuse a tracker whose package is not there, before anything has begun.

    Raises:
        UserError: with the command that installs it.
    """
    try:
        found = tracker == "none" or find_spec(tracker) is not None
    except ValueError:  # a module without a specification
        found = False
    if not found:
        raise missing(tracker)


def missing(tracker: str) -> UserError:
    """What to say where the tracker's package, or one that it needs, is not installed."""
    return UserError(f'tracker: {tracker} is not installed; install it with: pip install "t2t_vit[{tracker}]"')


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class RunId:
    """The id of the run at a tracker, kept in `folder`, so that a run that goes on is the same run there, too."""

    def __init__(self, folder: Path, name: str, *, goes_on: bool) -> None:
        self._path = folder / f"{name}.json"
        self.known: str | None = self._read() if goes_on else None

    def keep(self, run_id: str) -> None:
        """Remember it.

        Raises:
            UserError: the folder cannot be written.
        """
        with atomic_write(self._path, "w") as file:
            file.write(json.dumps({"run_id": run_id}) + "\n")

    def _read(self) -> str | None:
        try:
            run_id = json.loads(self._path.read_text(encoding="utf-8"))["run_id"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return run_id if isinstance(run_id, str) and run_id else None
