"""Which checkpoints are written and kept, when, and which files of a folder are the run's own."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from time import perf_counter
from typing import Any

from t2t_vit.errors import OutputError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.files import lead_to, read_json, write_json
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.checkpoint import (
    Identity,
    Trained,
    checkpoint_content,
    checkpoint_name,
    remove_checkpoint,
    serialised,
    write_checkpoint,
)
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics

NUMBERED = re.compile(r".+-\d+_(\d+)\.ckpt")
LIST = "checkpoints.json"
LAST, BEST = "last.ckpt", "best.ckpt"  # links to the newest and the best checkpoint, not checkpoints themselves


class CheckpointFolder:
    """`folder`, with the names of the run's checkpoints in `folder`/checkpoints.json.

    The list says whose they are, and that nothing else in the folder is the run's to delete: a file that somebody
    puts there, or one from past the step that the run was continued from. It is {"run": id and name, "kind": what
    the folder is for, "files": names}; older versions wrote the names alone.

    A name is listed before its file is written, so a kill in between leaves a name without a file, never a file
    without a name.

    Args:
        run: whose checkpoints these are, for the list.
        kind: `checkpoints`, `best` or `ema`, for the list.
    """

    def __init__(self, folder: Path, run: Mapping[str, str] | None = None, kind: str = "checkpoints") -> None:
        self.folder, self._run, self._kind = folder, run or {}, kind
        self._list = folder / LIST

    def files(self) -> list[Path]:
        """The run's checkpoints that are there, the one of the lowest step first.

        Where there is no list that can be read, all files that are called as checkpoints are.
        """
        listed = self._listed()
        if listed is None:
            found = [path for path in self.folder.glob("*.ckpt") if NUMBERED.fullmatch(path.name) and path.is_file()]
        else:
            found = [path for name in listed if (path := self.folder / name).is_file()]
        return sorted(found, key=step_of)

    def announce(self, names: Sequence[str]) -> None:
        """These are the run's, or will be in a moment.

        Raises:
            OutputError: the folder cannot be written.
        """
        own = {path.name for path in self.files()}
        for name in names:
            if name not in own:  # left from a later step than the run continued from: not the new file
                remove_checkpoint(self.folder / name)
        content = {"run": dict(self._run), "kind": self._kind, "files": list(names)}
        write_json(self._list, content, indent=0)

    def sweep(self) -> None:
        """Remove what a kill between two files of one checkpoint left: configurations whose checkpoint is gone."""
        for name in self._listed() or ():
            if not (self.folder / name).exists():
                remove_checkpoint(self.folder / name)

    def _listed(self) -> list[str] | None:
        try:
            content = read_json(self._list)
        except (OSError, ValueError):
            return None
        names = content.get("files") if isinstance(content, dict) else content
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

    def __init__(
        self,
        folder: Path,
        size: int,
        best_by: str = "top1",
        *,
        run: Mapping[str, str] | None = None,
        kind: str = "best",
    ) -> None:
        self.folder, self.size, self.best_by = folder, size, best_by
        self.shelf = CheckpointFolder(folder, run, kind)
        self.entries: list[Entry] = []

    def go_on(self, entries: Sequence[Entry], step: int) -> None:
        """Take the list of a checkpoint of step `step`, without files that are gone.

        What was pushed out, but not deleted before the run was killed, is deleted now.
        """
        self.know(entries)
        here = {path.name: path for path in self.shelf.files()}
        listed = {entry["file"] for entry in self.entries}
        for name, path in here.items():
            if name not in listed and step_of(path) <= step:
                remove_checkpoint(path)
        self.announce()

    def know(self, entries: Sequence[Entry]) -> None:
        """Take the list of a checkpoint, without files that are gone."""
        here = {path.name for path in self.shelf.files()}
        self.entries = [dict(entry) for entry in entries if entry["file"] in here]

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


def best_lists(folder: Path, size: int, best_by: str, run: Mapping[str, str], *, with_ema: bool) -> dict[str, BestList]:
    """The lists of a run by the name of the weights: raw in `folder`, ema in `folder`/ema."""
    lists = {"raw": BestList(folder, size, best_by, run=run)}
    if with_ema:
        lists["ema"] = BestList(folder / "ema", size, best_by, run=run, kind="ema")
    return lists


def best_of(ranked: Mapping[str, BestList]) -> Path | None:
    """The best checkpoint of all lists; of equal ones that of the averaged weights."""
    found = [(each.score(each.entries[0]), name == "ema", each) for name, each in ranked.items() if each.entries]
    if not found:
        return None
    *_, chosen = max(found, key=lambda one: one[:2])
    path: Path = chosen.folder / chosen.entries[0]["file"]
    return path


@dataclass
class _Pending:
    """A checkpoint that the thread writes; `written` and `failed` are called by the loop when that has ended."""

    step: int
    outcome: "Future[list[str]]"
    written: Callable[[], None]
    failed: Callable[[], None]


class Checkpoints(Callback):
    """Writes `folder`/ARCH-EPOCH_STEP.ckpt, the newest `keep_num` of them, and the best ones elsewhere.

    When: every `every_steps` updates, every `every_seconds` seconds (0: not), and at the end of the run.
    Best: after each evaluation, `best_num` by the raw weights' `best_by` in `best_folder`, and as many by the averaged
    weights' in `best_folder`/ema. Each is a whole checkpoint with both sets of weights. `folder`/last.ckpt leads to
    the newest one, `best_folder`/best.ckpt to the best one of both lists.

    The loop waits while the bytes of a checkpoint are made, which a later update must not change; a thread writes
    them and flushes the disk, one checkpoint at a time. `wait`, the end, a stop and `close` wait for it.

    A write that fails before the end is reported through `note`, and training continues. Before the first update, call
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
        self._folder, self._best_folder = folder, best_folder
        self._identity, self._trained = identity, trained
        self._keep_num, self._note = max(1, keep_num), note
        self._every_steps, self._every_seconds = every_steps, every_seconds
        self._shelf, self._followers = CheckpointFolder(folder, identity.run), tuple(followers)
        self.best = best_lists(best_folder, best_num, best_by, identity.run, with_ema=trained.keeps_average)
        self.kept: list[Path] = []
        self._saved_at, self._saved_step, self._tried_step = perf_counter(), 0, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: _Pending | None = None

    def begin(self) -> None:
        """A new run, whose lists are empty.

        Raises:
            OutputError: a folder cannot be written.
        """
        for shelf in self._shelves:
            shelf.announce([])

    def go_on(self, content: Mapping[str, Any], path: Path, state: State, damaged: Collection[Path] = ()) -> None:
        """Continue the run of the checkpoint `content` at `path`; call it when everything else is restored.

        The folders are the run's own. Files of it that are older count for `keep_num` again, `damaged` ones as the
        oldest; what lies past `path` is nobody's. A checkpoint from elsewhere is written again here, so that the run
        can always be continued from its own folders.

        Raises:
            OutputError: a folder cannot be written.
        """
        is_here = any(_same_file(path, file) for shelf in self._shelves for file in shelf.files())
        for shelf in self._shelves:
            shelf.sweep()
        for name, ranked in self.best.items():
            ranked.go_on(content["best"].get(name, ()), state.step)
        here = [file for file in self._shelf.files() if file not in damaged and step_of(file) <= state.step]
        self.kept = [*sorted((file for file in damaged if file.parent == self._folder), key=step_of), *here]
        self._shelf.announce([file.name for file in self.kept])
        self._saved_step = state.step
        if is_here:
            self._lead(here)
        else:
            self._save(state)
            self._raise_failure()

    @property
    def _shelves(self) -> list[CheckpointFolder]:
        return [self._shelf, *(ranked.shelf for ranked in self.best.values())]

    def on_step(self, state: State, _: StepMetrics) -> None:
        if self._pending is not None and self._pending.outcome.done():
            self.wait()
        by_steps = self._every_steps > 0 and state.step % self._every_steps == 0
        by_time = self._every_seconds > 0 and perf_counter() - self._saved_at >= self._every_seconds
        if by_steps or by_time:
            self._save(state)

    def on_epoch(self, state: State) -> None:
        if state.evaluated:
            self._save_best(state)

    def on_end(self, state: State) -> None:
        self._save(state)
        self._raise_failure()

    def on_stop(self, state: State, whole: bool) -> None:
        self.wait()
        diverged = state.diverged_since
        if whole and diverged is None and state.step > max(self._saved_step, self._tried_step):
            self._save(state)
            self.wait()
        if diverged is not None and whole:
            self._disown(diverged - 1)  # the update before the first gradient that was not finite broke the weights
        self._note(self._farewell(state) if diverged is None else self._way_back(state.step, diverged - 1))

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def wait(self) -> None:
        """Let the thread finish; a write that failed is reported."""
        step = None if self._pending is None else self._pending.step
        if (error := self._settle()) is not None:
            self._note(f"checkpoint of step {step} not written; training continues: {error}")

    def _disown(self, since: int) -> None:
        """Checkpoints from the update `since` on hold broken weights: they stay, but are the run's no more."""
        self.kept = [file for file in self.kept if step_of(file) < since]
        for ranked in self.best.values():
            ranked.entries = [entry for entry in ranked.entries if entry["step"] < since]
        best = best_of(self.best)
        with suppress(OSError, OutputError):  # a disk that is full
            for link in [self._folder / LAST] * (not self.kept) + [self._best_folder / BEST] * (best is None):
                link.unlink(missing_ok=True)
            self._shelf.announce([file.name for file in self.kept])
            for ranked in self.best.values():
                ranked.announce()
        self._lead(self.kept)

    def _farewell(self, state: State) -> str:
        last = "no checkpoint has been written yet"
        if self.kept:
            file = self.kept[-1]
            last = (
                f"the last checkpoint is {file}; --resume {quote(str(file))} continues from it; so does "
                "--resume auto, unless a newer run was stopped"
            )
        best = best_of(self.best)
        ranked = f"; the best one is {best}" if best else ""
        return f"stopped at step {state.step}; {last}{ranked}"

    def _way_back(self, step: int, since: int) -> str:
        """What to do after a divergence whose first bad update was `since`: go back to before it."""
        best = [ranked.folder / entry["file"] for ranked in self.best.values() for entry in ranked.entries]
        earlier = [file for file in [*self.kept, *best] if step_of(file) < since]
        if not earlier:
            return f"stopped at step {step}; no earlier checkpoint exists, so begin again with a lower --base_lr"
        file = quote(str(max(earlier, key=step_of)))
        return (
            f"stopped at step {step}; the last checkpoint from before step {since} is {file}: --resume {file} with a "
            "lower --base_lr continues from there"
        )

    def _save(self, state: State) -> None:
        self.wait()
        self._tried_step = state.step
        path = self._folder / checkpoint_name(self._identity.arch, state)
        names = [*(old for old in self.kept if old != path), path]
        kept, pushed_out = names[-self._keep_num :], names[: -self._keep_num]

        def write() -> list[str]:
            self._shelf.announce([file.name for file in names])
            write_checkpoint([path], data, self._identity.config_text)
            failures = _leads(self._folder / LAST, path)
            for old in pushed_out:
                remove_checkpoint(old)
            return failures

        def written() -> None:
            self.kept, self._saved_step = kept, max(self._saved_step, step_of(path))

        data = self._data(state)
        self._saved_at = perf_counter()
        self._pending = _Pending(state.step, self._thread.submit(write), written, lambda: None)

    def _save_best(self, state: State) -> None:
        self.wait()
        file = checkpoint_name(self._identity.arch, state)
        before = {name: ranked.entries for name, ranked in self.best.items()}
        pushed_out: dict[str, list[Path]] = {}
        for name, metrics in state.results.items():
            is_in, out = self.best[name].offer(file, state.step, metrics)
            if is_in:
                pushed_out[name] = out
        if not pushed_out:
            return

        def write() -> list[str]:
            for name, out in pushed_out.items():
                self.best[name].announce(out)
            write_checkpoint([self.best[name].folder / file for name in pushed_out], data, self._identity.config_text)
            failures = self._lead_to_best()
            for out in pushed_out.values():  # only now: until the new one is on the disk, the old one is the best
                for path in out:
                    remove_checkpoint(path)
            return failures

        def failed() -> None:
            for name, entries in before.items():
                self.best[name].entries = entries

        data = self._data(state)
        self._pending = _Pending(state.step, self._thread.submit(write), lambda: None, failed)

    def _data(self, state: State) -> memoryview:
        best = {name: ranked.entries for name, ranked in self.best.items() if ranked.entries}
        followers = {type(one).__name__: known for one in self._followers if (known := one.state_dict())}
        return serialised(checkpoint_content(self._identity, self._trained, state, best, followers))

    def _settle(self) -> OutputError | None:
        """Wait for the thread, and take over what came of it: why it failed, or None."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        try:
            for told in pending.outcome.result():
                self._note(told)
        except OutputError as error:
            pending.failed()
            self._saved_at = perf_counter()
            return error
        pending.written()
        return None

    def _raise_failure(self) -> None:
        """Wait for the thread; here a write that failed is an error."""
        if (error := self._settle()) is not None:
            raise error

    def _lead(self, kept: Sequence[Path]) -> None:
        """Let last.ckpt lead to the last of these, and best.ckpt to the best of the lists."""
        for told in [*(_leads(self._folder / LAST, kept[-1]) if kept else ()), *self._lead_to_best()]:
            self._note(told)

    def _lead_to_best(self) -> list[str]:
        best = best_of(self.best)
        return _leads(self._best_folder / BEST, best) if best else []


def _leads(link: Path, target: Path) -> list[str]:
    """Make `link` lead to `target`; a sentence where that fails, which is no reason to stop."""
    try:
        lead_to(link, target)
    except OutputError as error:
        return [str(error)]
    return []


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
