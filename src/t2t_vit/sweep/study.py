"""The trials of a sweep in a SQLite file, through optuna: which values come next, what came of each.

All that is drawn for trial N is a function of the seed, of N and of the trials before it, so that a sweep of one job
that was killed goes on as if it had not been. What is being trained is known by a lock, which the training process
holds, too: nobody takes up a trial before the last process that works on it has gone.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2t_vit.errors import OutputError, UserError
from t2t_vit.installing import not_installed
from t2t_vit.platforms import BINARY, NoLocksError, lock
from t2t_vit.sweep.space import Dimension, grid

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

DATABASE, LOCK = "study.db", ".lock"
_SECONDS_BUSY = 120  # how long the database is waited for, while another process writes


def check_installed() -> None:
    """Refuse a sweep where optuna is missing.

    Raises:
        UserError: with the command that installs it.
    """
    if find_spec("optuna") is None:
        raise UserError(not_installed("sweep: optuna", "sweep"))


@dataclass(frozen=True)
class Plan:
    """What a sweep is.

    trials    how many; of a grid all combinations
    seeds     that each combination is trained with
    default   the values that the configuration has by itself, where the space holds them; None where it does not
    loss      whether the smallest value is the best
    prune     median, hyperband or none
    epochs    of a run, for the pruners
    """

    dimensions: Sequence[Dimension]
    trials: int
    seeds: Sequence[int]
    default: Mapping[str, Any] | None
    is_grid: bool
    loss: bool
    prune: str
    epochs: int

    @property
    def shown_trials(self) -> str:
        return f"{self.trials} combinations" if self.is_grid else f"{self.trials} trials"


@dataclass
class Turn:
    """A trial that this process works on, until `close`."""

    trial: "optuna.Trial"
    number: int
    texts: dict[str, str]
    descriptor: int
    is_default: bool
    reported: set[int] = field(default_factory=set)

    def close(self) -> None:
        os.close(self.descriptor)


class Study:
    """The trials in `folder`.

    Raises:
        UserError: the file is no database of optuna's, or cannot be written.
    """

    def __init__(self, folder: Path, plan: Plan, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._folder, self._plan, self._seed = optuna, folder, plan, seed
        url = f"sqlite:///{(folder / DATABASE).absolute()}"
        options = {"connect_args": {"timeout": _SECONDS_BUSY}}
        with self._locked(), database_errors(folder):
            try:
                storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
            except RuntimeError as error:  # tables of another version of optuna
                raise _unusable(folder, error) from error
            self._study = optuna.create_study(
                storage=storage,
                study_name="sweep",
                direction="minimize" if plan.loss else "maximize",
                pruner=self._pruner(),
                load_if_exists=True,
            )
            self._enqueue()

    def _pruner(self) -> "optuna.pruners.BasePruner":
        pruners, epochs = self._optuna.pruners, self._plan.epochs
        if self._plan.prune == "median":
            return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 5))
        if self._plan.prune == "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=max(1, epochs), reduction_factor=3)
        return pruners.NopPruner()

    def _enqueue(self) -> None:
        """What is known from the beginning: a grid whole, and else the configuration as it is, once."""
        plan = self._plan
        wanted: list[Mapping[str, Any]] = []
        if plan.is_grid:
            wanted = [*grid(plan.dimensions)]
        elif plan.default is not None:
            wanted = [plan.default]
        known = len(self.trials())  # of a beginning that was killed, the first ones
        for values in wanted[known:] if plan.is_grid or known == 0 else ():
            self._study.enqueue_trial(dict(values))

    def trials(self) -> list["FrozenTrial"]:
        """All of them, by their numbers."""
        return self._study.get_trials(deepcopy=False)

    def next_turn(self, own: Sequence[int]) -> Turn | None:
        """A trial to work on: one that its process left, one that waits, or a new one; None where there is none now.

        Args:
            own: numbers of the trials that this process works on.
        """
        states = self._optuna.trial.TrialState
        with self._locked():
            trials = self.trials()
            for held in trials:
                if held.state == states.RUNNING and held.number not in own:
                    descriptor = self._taken(held.number)
                    if descriptor is not None:
                        self._study.sampler = self._sampler(held.number)
                        return self._turn(self._optuna.trial.Trial(self._study, held._trial_id), descriptor)
            waits = any(each.state == states.WAITING for each in trials)
            if not waits and len(trials) >= self._plan.trials:
                return None
            self._study.sampler = self._sampler(len(trials))
            trial = self._study.ask()
            descriptor = self._taken(trial.number)
            if descriptor is None:
                raise AssertionError(f"trial {trial.number} is new, and somebody works on it")
            return self._turn(trial, descriptor)

    def is_over(self) -> bool:
        """Whether every trial has come to its end, in whatever process."""
        trials = self.trials()
        return len(trials) >= self._plan.trials and all(each.state.is_finished() for each in trials)

    def _sampler(self, number: int, key: str = "") -> "optuna.samplers.BaseSampler":
        digest = hashlib.blake2b(f"{self._seed} {number} {key}".encode(), digest_size=4).digest()
        return self._optuna.samplers.TPESampler(seed=int.from_bytes(digest, "little"), constant_liar=True)

    def _turn(self, trial: "optuna.Trial", descriptor: int) -> Turn:
        drawn: dict[str, Any] = {}
        for each in self._plan.dimensions:  # a sampler for each key: what a kill left undrawn comes out the same
            self._study.sampler = self._sampler(trial.number, each.key)
            drawn[each.key] = each.draw(trial)
        texts = {each.key: each.text(drawn[each.key]) for each in self._plan.dimensions}
        held = self._study.get_trials(deepcopy=False)[trial.number]
        is_default = self._plan.default is not None and dict(self._plan.default) == drawn
        return Turn(trial, trial.number, texts, descriptor, is_default, set(held.intermediate_values))

    def report(self, turn: Turn, step: int, value: float) -> None:
        """What the trial came to after epoch `step`."""
        if step not in turn.reported:
            turn.reported.add(step)
            turn.trial.report(value, step)

    def should_prune(self, turn: Turn) -> bool:
        """Whether the last reported value says that the trial leads nowhere; never of the configuration as it is."""
        return not turn.is_default and bool(turn.reported) and turn.trial.should_prune()

    def complete(self, turn: Turn, values: Sequence[float], seconds: float) -> None:
        """The trial came to its end: a value for each seed."""
        turn.trial.set_user_attr("values", list(values))
        turn.trial.set_user_attr("seconds", seconds)
        self._study.tell(turn.trial, sum(values) / len(values))

    def pruned(self, turn: Turn, seconds: float) -> None:
        """The trial was broken off."""
        turn.trial.set_user_attr("seconds", seconds)
        self._study.tell(turn.trial, state=self._optuna.trial.TrialState.PRUNED)

    def failed(self, turn: Turn, reason: str) -> None:
        """The trial's run ended with an error."""
        turn.trial.set_user_attr("reason", reason)
        self._study.tell(turn.trial, state=self._optuna.trial.TrialState.FAIL)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time chooses what comes next."""
        descriptor = _opened(self._folder / LOCK)
        try:
            while True:
                try:
                    lock(descriptor)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
                except NoLocksError:
                    break
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of optuna, about what it calls experimental
                yield
        finally:
            os.close(descriptor)

    def _taken(self, number: int) -> int | None:
        """The lock of a trial, which this process has now; None where another one works on it."""
        folder = trial_folder(self._folder, number)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(folder / LOCK)
        try:
            with suppress(NoLocksError):
                lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial's runs are."""
    return folder / f"trial-{number:04d}"


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); name another --folder") from error


@contextmanager
def database_errors(folder: Path) -> Iterator[None]:
    """Within, a database that cannot be read or written is the user's to look at: a full disk, another file there.

    Raises:
        UserError: in place of optuna's and sqlalchemy's errors.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0]
    return UserError(f"{folder / DATABASE}: cannot be used as the sweep's database ({reason}); name another --folder")
