"""Which checkpoints are written and kept, and which files in a folder are the present run's."""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.files import atomic_write
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.checkpoint import (
    Identity,
    Trained,
    checkpoint_content,
    checkpoint_name,
    remove_checkpoint,
    write_checkpoint,
)
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics

NUMBERED = re.compile(r".+-\d+_(\d+)\.ckpt")


class CheckpointFolder:
    """`folder`, with the names of the run's checkpoints in `folder`/checkpoints.json.

    Runs of one name share a folder. Without the list, a run could neither delete its own old checkpoints after it was
    killed, nor be continued where an earlier run left files of later steps.

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


Entry = dict[str, Any]


class BestList:
    """The `size` best checkpoints by `best_by` in `folder`, best first.

    Between equal ones the lower loss is better, and between equal losses the earlier one, so that a tie never replaces
    what is there. An entry is {"file": name, "step", "top1", "loss"} and `best_by`; one that does not know `best_by`,
    as of a run that was ranked by something else, comes last.
    """

    def __init__(self, folder: Path, size: int, best_by: str = "top1") -> None:
        self.folder, self.size, self.best_by = folder, size, best_by
        self.shelf = CheckpointFolder(folder)
        self.entries: list[Entry] = []

    def go_on(self, entries: Sequence[Entry], step: int, *, own: bool) -> None:
        """Take the list of a checkpoint of step `step`, without files that are gone.

        What was pushed out, but not deleted before the run was killed, is deleted now, if the files are its `own`.
        """
        here = {path.name: path for path in self.shelf.files()}
        self.entries = [dict(entry) for entry in entries if entry["file"] in here]
        listed = {entry["file"] for entry in self.entries}
        for name, path in here.items() if own else ():
            if name not in listed and step_of(path) <= step:
                remove_checkpoint(path)
        self.announce()

    def announce(self, pushed_out: Sequence[Path] = ()) -> None:
        """Write to the folder's list which files are ranked, and which are about to be deleted."""
        self.shelf.announce([*(entry["file"] for entry in self.entries), *(path.name for path in pushed_out)])

    def offer(self, file: str, step: int, metrics: Metrics) -> tuple[bool, list[Path]]:
        """Whether the checkpoint belongs in the list, where it then is, and the files it pushes out."""
        others = [entry for entry in self.entries if entry["file"] != file]
        new = {"file": file, "step": step, "top1": metrics.top1, "loss": metrics.loss}
        new[self.best_by] = getattr(metrics, self.best_by)
        ranked = sorted([*others, new], key=self._place)
        self.entries = ranked[: self.size]
        pushed_out = [self.folder / entry["file"] for entry in ranked[self.size :] if entry is not new]
        return new in self.entries, pushed_out

    def score(self, entry: Entry) -> float:
        """How good an entry is by `best_by`: the larger the better, -inf where that is not known."""
        value = float(entry.get(self.best_by, math.nan))
        signed = -value if self.best_by == "loss" else value
        return signed if math.isfinite(signed) else -math.inf

    def _place(self, entry: Entry) -> tuple[float, float, int]:
        loss = entry["loss"]
        return -self.score(entry), math.inf if math.isnan(loss) else loss, entry["step"]


class Checkpoints(Callback):
    """Writes `folder`/ARCH-EPOCH_STEP.ckpt, the newest `keep_num` of them, and the best ones elsewhere.

    When: every `every_steps` updates, every `every_seconds` seconds (0: not), and at the end of the run.
    Best: after each evaluation, `best_num` by the raw weights' `best_by` in `best_folder`, and as many by the averaged
    weights' in `best_folder`/ema. Each is a whole checkpoint with both sets of weights. Files of earlier runs
    are left alone.

    A write that fails before the end is reported through `note`, and training goes on. Before the first update, call
    `begin` or `go_on`.

    Args:
        followers: callbacks whose state goes into each checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        best_folder: Path,
        identity: Identity,
        trained: Trained,
        *,
        keep_num: int = 10,
        best_num: int = 5,
        best_by: str = "top1",
        every_steps: int = 0,
        every_seconds: float = 0,
        note: Callable[[str], None],
        followers: Sequence[Callback] = (),
    ) -> None:
        self._folder, self._identity, self._trained = folder, identity, trained
        self._keep_num, self._note = max(1, keep_num), note
        self._every_steps, self._every_seconds = every_steps, every_seconds
        self._shelf, self._followers = CheckpointFolder(folder), tuple(followers)
        folders = {"raw": best_folder, "ema": best_folder / "ema"}
        self.best = {name: BestList(place, best_num, best_by) for name, place in folders.items()}
        self.kept: list[Path] = []
        self._saved_at, self._saved_step, self._tried_step = perf_counter(), 0, 0

    def begin(self) -> None:
        """A new run: no file that lies in the folders is its own.

        Raises:
            UserError: a folder cannot be written.
        """
        for shelf in self._shelves:
            shelf.begin()

    def go_on(self, content: Mapping[str, Any], path: Path, state: State, damaged: Collection[Path] = ()) -> None:
        """Continue the run of the checkpoint `content` at `path`; call it when everything else is restored.

        Files of the run that are older count for `keep_num` again, `damaged` ones as the oldest. A checkpoint from
        elsewhere is written again here, so that the run can always be continued from its own folders.

        Raises:
            UserError: a folder cannot be written.
        """
        own = any(path.name in {file.name for file in shelf.files()} for shelf in self._shelves)
        for shelf in self._shelves:
            shelf.sweep()
        for name, ranked in self.best.items():
            ranked.go_on(content["best"].get(name, ()), state.step, own=own)
        here = [file for file in self._shelf.files() if own and file not in damaged]
        self.kept = [*sorted(damaged, key=step_of), *(file for file in here if step_of(file) <= state.step)]
        self.kept = [file for file in self.kept if file.parent == self._folder]
        self._shelf.announce([file.name for file in self.kept])
        self._saved_step = state.step
        if not own:
            self._save(state)

    @property
    def _shelves(self) -> list[CheckpointFolder]:
        return [self._shelf, *(ranked.shelf for ranked in self.best.values())]

    def on_step(self, state: State, _: StepMetrics) -> None:
        by_steps = self._every_steps > 0 and state.step % self._every_steps == 0
        by_time = self._every_seconds > 0 and perf_counter() - self._saved_at >= self._every_seconds
        if by_steps or by_time:
            self._forgiving(self._save, state)

    def on_epoch(self, state: State) -> None:
        if state.evaluated:
            self._forgiving(self._save_best, state)

    def on_end(self, state: State) -> None:
        self._save(state)

    def on_stop(self, state: State, whole: bool) -> None:
        if whole and state.step > max(self._saved_step, self._tried_step):
            self._forgiving(self._save, state)
        last = "no checkpoint was written yet"
        if self.kept:
            last = f"the last checkpoint is {self.kept[-1]}; the same command with --resume auto continues from it"
        best = self.best["raw"].entries
        ranked = f"; the best one is {self.best['raw'].folder / best[0]['file']}" if best else ""
        self._note(f"stopped at step {state.step}; {last}{ranked}")

    def _save(self, state: State) -> None:
        self._tried_step = state.step
        path = self._folder / checkpoint_name(self._identity.arch, state)
        kept = [*(old for old in self.kept if old != path), path]
        self._shelf.announce([file.name for file in kept])
        self._write([path], state)
        self.kept = kept
        while len(self.kept) > self._keep_num:
            remove_checkpoint(self.kept.pop(0))
        self._saved_at, self._saved_step = perf_counter(), state.step

    def _save_best(self, state: State) -> None:
        file = checkpoint_name(self._identity.arch, state)
        before = {name: ranked.entries for name, ranked in self.best.items()}
        pushed_out: dict[str, list[Path]] = {}
        for name, metrics in state.results.items():
            is_in, out = self.best[name].offer(file, state.step, metrics)
            if is_in:
                pushed_out[name] = out
        try:
            if pushed_out:
                for name, out in pushed_out.items():
                    self.best[name].announce(out)
                self._write([self.best[name].folder / file for name in pushed_out], state)
        except UserError:
            for name, entries in before.items():
                self.best[name].entries = entries
            raise
        for out in pushed_out.values():  # only now: until the new one is on the disk, the old one is the best there is
            for path in out:
                remove_checkpoint(path)

    def _write(self, paths: list[Path], state: State) -> None:
        best = {name: ranked.entries for name, ranked in self.best.items() if ranked.entries}
        followers = {type(one).__name__: known for one in self._followers if (known := one.state_dict())}
        content = checkpoint_content(self._identity, self._trained, state, best, followers)
        write_checkpoint(paths, content, self._identity.config_text)

    def _forgiving(self, save: Callable[[State], None], state: State) -> None:
        try:
            save(state)
        except UserError as error:
            self._note(f"checkpoint of step {state.step} not written, training goes on: {error}")
            self._saved_at = perf_counter()
