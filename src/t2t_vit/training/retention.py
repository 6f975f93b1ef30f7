"""Which checkpoints are written, and which are kept."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
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

Entry = dict[str, Any]


class BestList:
    """The `size` best checkpoints by top-1 in `folder`, best first.

    Between equal top-1 the lower loss is better, and between equal losses the earlier one, so that a tie never
    replaces what is there. An entry is {"file": name, "step", "top1", "loss"}.
    """

    def __init__(self, folder: Path, size: int, entries: list[Entry] | None = None) -> None:
        self.folder, self.size = folder, size
        self.entries = [entry for entry in entries or [] if (folder / entry["file"]).exists()]

    def offer(self, file: str, step: int, metrics: Metrics) -> tuple[bool, list[Path]]:
        """Whether the checkpoint belongs in the list, where it then is, and the files it pushes out."""
        others = [entry for entry in self.entries if entry["file"] != file]
        new = {"file": file, "step": step, "top1": metrics.top1, "loss": metrics.loss}
        ranked = sorted([*others, new], key=lambda entry: (-entry["top1"], entry["loss"], entry["step"]))
        self.entries = ranked[: self.size]
        pushed_out = [self.folder / entry["file"] for entry in ranked[self.size :] if entry is not new]
        return new in self.entries, pushed_out


class Checkpoints(Callback):
    """Writes `folder`/ARCH-EPOCH_STEP.ckpt, the newest `keep_num` of them, and the best ones elsewhere.

    When: every `every_steps` updates, every `every_seconds` seconds (0: not), and at the end of the run.
    Best: after each evaluation, `best_num` by the raw weights' top-1 in `best_folder`, and as many by the averaged
    weights' in `best_folder`/ema. Each is a whole checkpoint with both sets of weights. Files of earlier runs
    are left alone.

    A write that fails before the end is told through `note`, and training goes on.

    Args:
        best: the lists of the checkpoint that the run goes on from.
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
        every_steps: int = 0,
        every_seconds: float = 0,
        note: Callable[[str], None],
        best: Mapping[str, list[Entry]] | None = None,
    ) -> None:
        self._folder, self._identity, self._trained = folder, identity, trained
        self._keep_num, self._note = max(1, keep_num), note
        self._every_steps, self._every_seconds = every_steps, every_seconds
        folders = {"raw": best_folder, "ema": best_folder / "ema"}
        best = best or {}
        self.best = {name: BestList(place, best_num, best.get(name)) for name, place in folders.items()}
        self.kept: list[Path] = []
        self._saved_at, self._saved_step = perf_counter(), 0

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
        if whole and state.step > self._saved_step:
            self._forgiving(self._save, state)
        last = f"the last checkpoint is {self.kept[-1]}" if self.kept else "no checkpoint was written yet"
        best = self.best["raw"].entries
        ranked = f"; the best one is {self.best['raw'].folder / best[0]['file']}" if best else ""
        self._note(f"stopped at step {state.step}; {last}{ranked}")

    def _save(self, state: State) -> None:
        path = self._folder / checkpoint_name(self._identity.arch, state)
        self._write([path], state)
        self.kept = [*(old for old in self.kept if old != path), path]
        while len(self.kept) > self._keep_num:
            remove_checkpoint(self.kept.pop(0))
        self._saved_at, self._saved_step = perf_counter(), state.step

    def _save_best(self, state: State) -> None:
        file = checkpoint_name(self._identity.arch, state)
        before = {name: ranked.entries for name, ranked in self.best.items()}
        paths, pushed_out = [], []
        for name, metrics in state.results.items():
            is_in, out = self.best[name].offer(file, state.step, metrics)
            pushed_out += out
            if is_in:
                paths.append(self.best[name].folder / file)
        try:
            if paths:
                self._write(paths, state)
        except UserError:
            for name, entries in before.items():
                self.best[name].entries = entries
            raise
        for path in pushed_out:  # only now: until the new one is on the disk, the old one is the best there is
            remove_checkpoint(path)

    def _write(self, paths: list[Path], state: State) -> None:
        best = {name: ranked.entries for name, ranked in self.best.items() if ranked.entries}
        content = checkpoint_content(self._identity, self._trained, state, best)
        write_checkpoint(paths, content, self._identity.config_text)

    def _forgiving(self, save: Callable[[State], None], state: State) -> None:
        try:
            save(state)
        except UserError as error:
            self._note(f"checkpoint of step {state.step} not written, training goes on: {error}")
            self._saved_at = perf_counter()
