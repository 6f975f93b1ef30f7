"""The sweep itself: trials are taken up, their runs followed, broken off or continued, until all are at their end."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.report.run_files import RECORD
from t2t_vit.sweep.locks import trial_folder
from t2t_vit.sweep.process import SeedRun
from t2t_vit.sweep.results import shown
from t2t_vit.sweep.study import Plan, Study, Turn
from t2t_vit.training.signals import Stopped, heard

POLL = 0.5  # seconds between two looks at the runs
RESTARTS = 3  # of a run that somebody killed, at most

Note = Callable[[str], None]
Words = Callable[[Mapping[str, str], int], Sequence[str]]


@dataclass
class _Work:
    """A trial of this process: the run of its present seed, and what the seeds before came to."""

    turn: Turn
    runs: list[SeedRun]
    slot: int
    at: int = 0
    restarts: int = 0
    is_pruned: bool = False
    values: list[float] = field(default_factory=list)

    @property
    def run(self) -> SeedRun:
        return self.runs[self.at]

    @property
    def seconds(self) -> float:
        return sum(run.seconds for run in self.runs)

    @property
    def named(self) -> str:
        texts = ", ".join(f"{key} {text}" for key, text in self.turn.texts.items())
        return f"trial {self.turn.number} ({texts})"


class Runner:
    """Works on the trials of a sweep until none is left.

    Args:
        words: of the training of these values with this seed.
        metric: a name of `Metrics`, by which trials are ranked.
        jobs: runs at a time.
        environments: variables for the run in each slot, `jobs` of them.
        note: gets a line for everything that happens.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        study: Study,
        words: Words,
        metric: str,
        *,
        jobs: int,
        environments: Sequence[Mapping[str, str]],
        note: Note,
    ) -> None:
        self._folder, self._plan, self._study, self._words, self._metric = folder, plan, study, words, metric
        self._jobs, self._environments, self._note = jobs, environments, note
        self._works: list[_Work] = []
        self._requested = 0

    def run(self) -> None:
        """Until every trial is at its end, those of other processes included.

        Raises:
            Stopped: a signal asked for it; the runs have stopped with checkpoints, and the sweep can continue.
            UserError: the first run could not begin: what is wrong is the same for all.
        """
        with heard(self._request):  # also while the runs save and end, so that a second Ctrl-C is heard
            try:
                self._loop()
            finally:
                for work in self._works:
                    work.run.stop()
                for work in self._works:
                    work.run.wait()
                    work.turn.close()
        if self._requested:
            raise Stopped(self._requested)

    def _request(self, number: int) -> None:
        """What a signal's handler does; a second Ctrl-C waits for nothing."""
        if self._requested and number == signal.SIGINT:
            for work in self._works:
                work.run.kill()
        self._requested = self._requested or number

    def _loop(self) -> None:
        waits = False
        while not self._requested:
            for work in [*self._works]:
                if self._step(work):
                    self._works.remove(work)
                    work.turn.close()
            while len(self._works) < self._jobs and not self._requested:
                turn = self._study.next_turn([work.turn.number for work in self._works], self._jobs)
                if turn is None:
                    break
                self._begin(turn)
            if not self._works:
                if self._study.is_over():
                    return
                if not waits:
                    self._note("waiting for trials that another process works on")
                waits = True
            time.sleep(POLL)

    def _begin(self, turn: Turn) -> None:
        slot = min({*range(self._jobs)} - {work.slot for work in self._works})
        place = trial_folder(self._folder, turn.number)
        # The configuration as it is gets no words: a number of many digits would lose some.
        texts = {} if turn.is_default else turn.texts
        runs = [SeedRun(place / f"seed-{seed}", self._words(texts, seed)) for seed in self._plan.seeds]
        work = _Work(turn, runs, slot)
        self._works.append(work)
        goes_on = any(run.logs for run in runs)
        self._note(f"{work.named}: {'continues' if goes_on else 'begins'}")
        self._start(work)

    def _start(self, work: _Work) -> None:
        if not work.run.is_finished:
            work.run.start(work.turn.descriptor, self._environments[work.slot])

    def _step(self, work: _Work) -> bool:
        """Look at the trial's run; whether the trial is at its end."""
        is_alive = work.run.is_alive  # before the rows: those of a run that has ended are all there
        if work.at == 0 and not work.is_pruned:
            self._follow(work)
        if is_alive:
            return False
        if work.is_pruned:
            self._study.pruned(work.turn, work.seconds)
            late = "; its run had finished before it could be stopped" if work.run.is_finished else ""
            self._note(f"{work.named}: stopped early, because it was worse than the others at this epoch{late}")
            return True
        if work.run.is_finished:
            return self._next_seed(work)
        code = work.run.code()
        if self._requested or code is None:
            return False
        if (code <= 0 or code > 128) and work.restarts < RESTARTS:
            work.restarts += 1
            self._note(f"{work.named}: {work.run.last_words()}; it is continued")
            self._start(work)
            return False
        return self._fail(work, code, work.run.last_words())

    def _follow(self, work: _Work) -> None:
        """Report what the run came to since the last look, epoch by epoch, until one says that it leads nowhere.

        That is decided by the epochs alone, also of a run that has ended meanwhile: not by how quickly we looked, or
        what is drawn and broken off after it would depend on that, too. After its last epoch there is nothing left to
        break off.
        """
        for found in work.run.new_values(self._metric, loss=self._plan.loss):
            self._study.report(work.turn, found.epoch, found.value)
            if found.step < work.run.last_step and self._study.should_prune(work.turn):
                work.is_pruned = True
                work.run.stop()
                return

    def _next_seed(self, work: _Work) -> bool:
        try:
            work.values.append(work.run.result(self._metric))
        except (LookupError, TypeError, ValueError, UserError) as error:
            return self._fail(work, 0, f"its evaluation is missing or damaged ({type(error).__name__})")
        if work.at + 1 < len(work.runs):
            work.at, work.restarts = work.at + 1, 0
            self._start(work)
            return False
        self._study.complete(work.turn, work.values, work.seconds)
        mean = sum(work.values) / len(work.values)
        self._note(f"{work.named}: {self._metric} {shown(mean, self._metric)}")
        return True

    def _fail(self, work: _Work, code: int, reason: str) -> bool:
        if code == 2 and not any(self._folder.glob(f"trial-*/seed-*/logs/*/{RECORD}")):
            raise UserError(f"the first run of the sweep cannot begin: {reason}")
        self._study.failed(work.turn, reason)
        self._note(f"{work.named}: failed: {reason}")
        return True


def environments(jobs: int, cores: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """Variables for each of `jobs` runs at a time: their share of the cores, and one of several devices each.

    Threads are left alone where OMP_NUM_THREADS is set.
    """
    found: list[dict[str, str]] = []
    for slot in range(jobs):
        own: dict[str, str] = {}
        if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            own["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
        if jobs > 1 and len(devices) > 1:
            own["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        found.append(own)
    return found


def visible_devices() -> list[str]:
    """The CUDA devices of this process, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = 0
    with suppress(RuntimeError):
        count = torch.cuda.device_count()
    return named[:count] if named else [str(index) for index in range(count)]
