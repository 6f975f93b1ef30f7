"""The trials of a sweep in a SQLite file, through optuna: which values come next, what came of each.

All that is drawn for trial N is a function of the seed, of N and of the trials before it, and is written down before
the trial begins, so that a sweep of one job that was killed continues as if it had not been. No combination is tried
twice. What is being trained is known by a lock, which the training process holds, too: nobody takes up a trial before
the last process that works on it has gone.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2t_vit.errors import UserError, first_line
from t2t_vit.installing import not_installed
from t2t_vit.notes import counted
from t2t_vit.sweep.locks import alone, is_orphan, take_trial
from t2t_vit.sweep.space import Dimension, combination, grid_size

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

DATABASE = "study.db"
NAME = "sweep"  # of the study in it; with more values of a list, "sweep 2" and so on
_WHOLE = "whole"  # attribute of a study whose trials are all copied
_SECONDS_BUSY = 120  # how long the database is waited for, while another process writes
_DRAWS = 100  # of a combination, before one that was not tried yet is looked for otherwise


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
        return counted(self.trials, "combination" if self.is_grid else "trial")


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

    Args:
        check: raises UserError where the folder does not hold the sweep of `plan` any more.

    Raises:
        UserError: the file is no database of optuna's, or cannot be written.
    """

    def __init__(self, folder: Path, plan: Plan, seed: int, check: Callable[[], None] = lambda: None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._folder, self._plan, self._seed, self._check = optuna, folder, plan, seed, check
        url = f"sqlite:///{(folder / DATABASE).absolute()}"
        options = {"connect_args": {"timeout": _SECONDS_BUSY}}
        with self._locked(), database_errors(folder):
            try:
                storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
            except RuntimeError as error:  # tables of another version of optuna
                raise _unusable(folder, error) from error
            self._study = self._opened(storage)
            self._enqueue()

    def _opened(self, storage: "optuna.storages.BaseStorage") -> "optuna.Study":
        """The study that there is, or a new one; where a list has more values than in its trials, a copy of it.

        optuna knows the values of a key by the whole list, and refuses another. A copy that a kill left unfinished is
        made again.
        """
        optuna = self._optuna
        names = sorted(optuna.get_all_study_names(storage), key=_number_of)
        whole = [
            name
            for name in names
            if name == NAME or _WHOLE in optuna.load_study(study_name=name, storage=storage).user_attrs
        ]
        for name in {*names} - {*whole}:
            optuna.delete_study(study_name=name, storage=storage)
        study = self._created(storage, whole[-1] if whole else NAME)
        lists = {each.key: each.distribution() for each in self._plan.dimensions if not each.is_range}
        trials = study.get_trials(deepcopy=False)
        if all(held.distributions.get(key, now) == now for held in trials for key, now in lists.items()):
            return study
        copy = self._created(storage, f"{NAME} {_number_of(study.study_name) + 1}")
        for held in trials:
            copy.add_trial(
                optuna.trial.create_trial(
                    state=held.state,
                    value=held.value,
                    params=held.params,
                    distributions={key: lists.get(key, then) for key, then in held.distributions.items()},
                    user_attrs=held.user_attrs,
                    system_attrs=held.system_attrs,
                    intermediate_values=held.intermediate_values,
                )
            )
        copy.set_user_attr(_WHOLE, True)
        return copy

    def _created(self, storage: "optuna.storages.BaseStorage", name: str) -> "optuna.Study":
        return self._optuna.create_study(
            storage=storage,
            study_name=name,
            direction="minimize" if self._plan.loss else "maximize",
            pruner=self._pruner(),
            load_if_exists=True,
        )

    def _pruner(self) -> "optuna.pruners.BasePruner":
        pruners, epochs = self._optuna.pruners, self._plan.epochs
        if self._plan.prune == "median":
            return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 5))
        if self._plan.prune == "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=max(1, epochs), reduction_factor=3)
        return pruners.NopPruner()

    def _enqueue(self) -> None:
        """What is known from the beginning: a grid whole, and else the configuration as it is."""
        plan = self._plan
        wanted: Iterator[Mapping[str, Any]] = iter(() if plan.default is None else (plan.default,))
        if plan.is_grid:
            wanted = (combination(plan.dimensions, number) for number in range(grid_size(plan.dimensions) or 0))
        tried = self._tried(self.trials())
        for values in wanted:
            if self._texts(values) not in tried:
                self._study.enqueue_trial(dict(values))

    def trials(self) -> list["FrozenTrial"]:
        """All of them, by their numbers."""
        return self._study.get_trials(deepcopy=False)

    def next_turn(self, own: Sequence[int], jobs: int = 1) -> Turn | None:
        """A trial to work on: one that its process left, one that waits, or a new one; None where there is none now.

        Args:
            own: numbers of the trials that this process works on.
            jobs: trainings at a time. One that outlived its sweep is one of them: other trials wait for it, since what
                comes next depends on it, and since it has the cores.
        """
        states = self._optuna.trial.TrialState
        with self._locked():
            trials = self.trials()
            others = [held for held in trials if held.state == states.RUNNING and held.number not in own]
            # All are counted before any is taken up: one of those behind it may still be training.
            if len(own) + sum(is_orphan(self._folder, held.number) for held in others) >= jobs:
                return None
            for held in others:
                descriptor = take_trial(self._folder, held.number)
                if descriptor is not None:
                    return self._turn(self._optuna.trial.Trial(self._study, held._trial_id), descriptor)
            if not any(each.state == states.WAITING for each in trials):
                drawn = self._next(trials)
                if drawn is None:
                    return None
                self._study.enqueue_trial(drawn)
            trial = self._study.ask()
            descriptor = take_trial(self._folder, trial.number)
            if descriptor is None:
                raise AssertionError(f"trial {trial.number} is new, but another process works on it")
            return self._turn(trial, descriptor)

    def is_over(self) -> bool:
        """Whether every trial has come to its end, in whatever process."""
        trials = self.trials()
        return all(each.state.is_finished() for each in trials) and self._next(trials) is None

    def _next(self, trials: "Sequence[FrozenTrial]") -> dict[str, Any] | None:
        """What the trial after these is to try, which none of them did; None where they are enough, or tried all.

        It is drawn by TPE, and again where it was tried, which TPE likes to do with what is good. Of what can be
        counted one is left in the end, and is found by going through all from a place that is drawn.
        """
        if len(trials) >= self._plan.trials or self._plan.is_grid:
            return None
        number, tried, dimensions = len(trials), self._tried(trials), self._plan.dimensions
        for draw in range(_DRAWS):
            drawn = {each.key: self._drawn(each, number, draw) for each in dimensions}
            if self._texts(drawn) not in tried:
                return drawn
        size = grid_size(dimensions)
        if size is None:
            return None
        first = self._seed_of(f"{number}") % size
        all_from_there = (combination(dimensions, (first + step) % size) for step in range(min(size, len(tried) + 1)))
        return next((values for values in all_from_there if self._texts(values) not in tried), None)

    def _drawn(self, dimension: Dimension, number: int, draw: int) -> Any:
        """What TPE draws for trial `number`, for the time `draw` from 0: a function of these and of the trials."""
        distribution = dimension.distribution()
        if distribution.single():
            return dimension.values[0]
        seed = self._seed_of(f"{number} {dimension.key}" + (f" {draw}" if draw else ""))
        nobody = self._optuna.trial.create_trial(state=self._optuna.trial.TrialState.RUNNING)
        with _quiet():
            sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            return sampler.sample_independent(self._study, nobody, dimension.key, distribution)

    def _seed_of(self, use: str) -> int:
        digest = hashlib.blake2b(f"{self._seed} {use}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little")

    def _tried(self, trials: "Sequence[FrozenTrial]") -> set[tuple[str, ...]]:
        """What these trials try, those that wait included, as command lines have it."""
        values = ({**each.system_attrs.get("fixed_params", {}), **each.params} for each in trials)
        return {self._texts(each) for each in values if all(one.key in each for one in self._plan.dimensions)}

    def _texts(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(each.text(values[each.key]) for each in self._plan.dimensions)

    def _turn(self, trial: "optuna.Trial", descriptor: int) -> Turn:
        drawn = {each.key: each.draw(trial) for each in self._plan.dimensions}
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
        """One process at a time chooses what comes next, for the sweep that the folder holds."""
        with alone(self._folder), _quiet():
            self._check()
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, optuna does not warn of what it calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _number_of(name: str) -> int:
    """1 of the first study, 2 of "sweep 2"."""
    number = name.rpartition(" ")[2]
    return int(number) if name != NAME and number.isdigit() else 1


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
    return UserError(
        f"{folder / DATABASE}: cannot be used as the sweep's database ({first_line(error)}); give another --folder"
    )
