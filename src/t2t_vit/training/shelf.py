"""A folder of checkpoints, and which of them are the present run's."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from t2t_vit.files import atomic_write
from t2t_vit.training.checkpoint import remove_checkpoint

NUMBERED = re.compile(r".+-\d+_(\d+)\.ckpt")


class Shelf:
    """`folder`, with the names of the run's checkpoints in `folder`/checkpoints.json.

    Runs of one name share a folder. Without the list, a run could neither delete its own old checkpoints after it was
    killed, nor be continued beside files of an earlier run that went further.

    A name is listed before its file is written, so a kill in between leaves a name without a file, never a file
    without a name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._list = folder / "checkpoints.json"

    def files(self) -> list[Path]:
        """The run's checkpoints that are there, the one of the lowest step first.

        Where there is no list that can be read, all files that are called as checkpoints are.
        """
        listed = self._listed()
        if listed is None:
            found = [path for path in self.folder.glob("*.ckpt") if NUMBERED.fullmatch(path.name)]
        else:
            found = [path for name in listed if (path := self.folder / name).is_file()]
        return sorted(found, key=step_of)

    def strangers(self) -> int:
        """How many checkpoints lie in the folder that are not the run's."""
        return len(set(self.folder.glob("*.ckpt")) - set(self.files()))

    def announce(self, names: Sequence[str]) -> None:
        """These are the run's, or will be in a moment.

        Raises:
            UserError: the folder cannot be written.
        """
        own = {path.name for path in self.files()}
        for name in names:
            if name not in own:  # an earlier run's file of this name must not pass for the one that is to come
                remove_checkpoint(self.folder / name)
        with atomic_write(self._list, "w") as file:
            file.write(json.dumps(list(names), indent=0) + "\n")

    def begin(self) -> None:
        """A new run takes the folder over; the files of an earlier one stay, but are nobody's.

        Raises:
            UserError: the folder cannot be written.
        """
        if self._list.exists() or any(self.folder.glob("*.ckpt")):
            with atomic_write(self._list, "w") as file:
                file.write("[]\n")

    def sweep(self) -> None:
        """Remove what a kill between two files of one checkpoint left: configurations whose checkpoint is gone."""
        for name in self._listed() or ():
            if not (self.folder / name).exists():
                remove_checkpoint(self.folder / name)

    def _listed(self) -> list[str] | None:
        try:
            names = json.loads(self._list.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_list = isinstance(names, list) and all(isinstance(name, str) and _is_plain(name) for name in names)
        return names if is_list else None


def step_of(path: Path) -> int:
    """The step in a checkpoint's name; -1 where there is none."""
    match = NUMBERED.fullmatch(path.name)
    return int(match[1]) if match else -1


def _is_plain(name: str) -> bool:
    """Whether it is a checkpoint's name, without any folder: what is listed may be deleted."""
    return NUMBERED.fullmatch(name) is not None and Path(name).name == name
