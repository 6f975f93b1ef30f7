"""What came of the trials: best first, with mean and spread over the seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from t2t_vit.report.formatting import duration, number, percent
from t2t_vit.report.run_files import RECORD
from t2t_vit.sweep.locks import trial_folder
from t2t_vit.sweep.space import Dimension

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "not finished"}


@dataclass(frozen=True)
class Trial:
    """One combination of values.

    values  of the metric, one for each seed; of a trial that did not come to its end none
    last    the last value that is known, and the epoch of it
    """

    number: int
    texts: Mapping[str, str]
    state: str
    is_default: bool
    values: tuple[float, ...] = ()
    last: tuple[int, float] | None = None
    seconds: float | None = None
    reason: str = ""

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds (n - 1); None of a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "mean": self.mean, "spread": self.spread}


def trials_of(
    frozen: "Sequence[FrozenTrial]", dimensions: Sequence[Dimension], default: Mapping[str, Any] | None, *, loss: bool
) -> list[Trial]:
    """The trials that have begun, best first; those that did not come to their end after the others."""
    found = [_trial(each, dimensions, default) for each in frozen if each.state.name in STATES]
    sign = 1 if loss else -1
    return sorted(
        found,
        key=lambda each: (
            each.mean is None,
            each.last is None,
            sign * (each.mean if each.mean is not None else each.last[1] if each.last else 0.0),
            each.number,
        ),
    )


def _trial(held: "FrozenTrial", dimensions: Sequence[Dimension], default: Mapping[str, Any] | None) -> Trial:
    texts = {each.key: each.text(held.params[each.key]) for each in dimensions if each.key in held.params}
    steps = held.intermediate_values
    return Trial(
        held.number,
        texts,
        STATES[held.state.name],
        default is not None and dict(default) == held.params,
        tuple(held.user_attrs.get("values", ())),
        (max(steps), steps[max(steps)]) if steps else None,
        held.user_attrs.get("seconds"),
        str(held.user_attrs.get("reason", "")),
    )


def table(trials: Sequence[Trial], dimensions: Sequence[Dimension], metric: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows for people."""
    keys = [each.key for each in dimensions]
    several = any(len(each.values) > 1 for each in trials)
    heads = ["trial", *keys, metric, *(["spread"] if several else []), "time", "state"]
    rows = []
    for each in trials:
        state = each.state
        if each.mean is None and each.last is not None:
            state += f", {shown(each.last[1], metric)} at epoch {each.last[0]}"
        if each.reason:
            state += f": {each.reason}"
        if each.is_default:
            state += ", the values of the configuration itself"
        rows.append(
            [
                str(each.number),
                *(each.texts.get(key, "") or "–" for key in keys),
                shown(each.mean, metric),
                *([shown(each.spread, metric)] if several else []),
                "–" if each.seconds is None else duration(each.seconds),
                state,
            ]
        )
    return heads, rows


def shown(value: float | None, metric: str) -> str:
    """A loss as a number, everything else as per cent."""
    return number(value, 4) if metric == "loss" else percent(value)


def logs_of_trial(folder: Path, trial: Trial) -> list[Path]:
    """The logs folders of the trial's runs, by their seeds."""
    found = trial_folder(folder, trial.number).glob(f"seed-*/logs/*/{RECORD}")
    return sorted((path.parent for path in found), key=lambda logs: int(logs.parents[1].name.removeprefix("seed-")))
