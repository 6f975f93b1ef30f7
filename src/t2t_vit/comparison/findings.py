"""Which of several groups of runs is better: each is compared with the first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2t_vit.comparison.runs import ComparedRun, Group, top1
from t2t_vit.comparison.significance import Difference, by_images, by_seeds, holm
from t2t_vit.evaluation.answers import ANSWER
from t2t_vit.report.formatting import percent
from t2t_vit.report.run_files import ANSWERS
from t2t_vit.settings.schema import KEYS, OF_SEED

DECIDED = 0.05  # a p-value below is no chance

# The keys that decide on which images a run is measured.
_MEASURED_ON = ("dataset", "data_url", "train_dir", "val_dir", "val_split", "split_seed", "val_num_samples")


@dataclass(frozen=True)
class Pair:
    """A group compared with the first one.

    images, seeds   the difference of their top-1, by the images and by the seeds; None where that cannot be tested
    why_not         why there is no test by the images; empty where there is one
    p               what decides, after Holm's correction where there are several pairs; None without any test
    """

    first: Group
    second: Group
    images: Difference | None
    seeds: Difference | None
    why_not: str = ""
    p: float | None = None

    @property
    def deciding(self) -> Difference | None:
        """By the seeds where there are several: chance in training is larger than that of the images, and on top."""
        return self.seeds or self.images

    @property
    def value(self) -> float | None:
        """How much larger the second's top-1 is, tested or not."""
        if self.deciding is not None:
            return self.deciding.value
        first, second = self.first.mean(top1), self.second.mean(top1)
        return None if first is None or second is None else second - first

    @property
    def verdict(self) -> str:
        """better, worse or not decided: the second, compared with the first."""
        if self.p is None or self.p >= DECIDED or self.deciding is None:
            return "not decided"
        return "better" if self.deciding.value > 0 else "worse"

    @property
    def sentence(self) -> str:
        """Who wins, or that it is not decided, with the interval and the test."""
        found = self.deciding
        if found is None or self.p is None:
            return f"Not decided between {self.first.name} and {self.second.name}: there is no test. {self.why_not}"
        test = f"95 % interval {points(found.low)} to {points(found.high)}; {found.by}, p = {shown_p(self.p)}"
        if self.verdict == "not decided":
            return (
                f"Not decided between {self.first.name} and {self.second.name}: their top-1 differs by "
                f"{points(found.value)} percentage points ({test})."
            )
        better, other = (self.second, self.first) if found.value > 0 else (self.first, self.second)
        low, high = (found.low, found.high) if found.value > 0 else (-found.high, -found.low)
        test = f"95 % interval {100 * low:.2f} to {100 * high:.2f}; {found.by}, p = {shown_p(self.p)}"
        return (
            f"{better.name} is better than {other.name}: its top-1 is {100 * abs(found.value):.2f} percentage points "
            f"higher ({test})."
        )


def pairs_of(groups: Sequence[Group]) -> list[Pair]:
    """Each group beside the first; p-values are corrected for their number."""
    found = [_pair(groups[0], other) for other in groups[1:]]
    tested = [pair.deciding.p for pair in found if pair.deciding is not None]
    corrected = iter(holm(tested))
    return [pair if pair.deciding is None else replace(pair, p=next(corrected)) for pair in found]


def _pair(first: Group, second: Group) -> Pair:
    seeds = by_seeds(first.values(_reported), second.values(_reported))
    why_not = why_unpaired([*first.measured, *second.measured])
    if why_not:
        return Pair(first, second, None, seeds, why_not)
    return Pair(first, second, by_images(_right(first), _right(second)), seeds)


def _reported(run: ComparedRun) -> float | None:
    """Top-1 of runs that came to their end: one that is half trained is no sample of its configuration."""
    return run.top1 if run.is_finished else None


def why_unpaired(runs: Sequence[ComparedRun]) -> str:
    """Why the answers of these runs cannot be paired image by image, in a sentence; empty where they can.

    Args:
        runs: one or more.
    """
    for run in runs:
        if not run.is_finished:
            return f"{run.name} is not finished, so it has no answers from a last evaluation."
        if run.answers is None:
            return (
                f"{run.name} has no {ANSWERS}, the file in which a run of this version stores its answer to each image."
            )
    first = runs[0]
    for run in runs[1:]:
        assert first.answers is not None
        assert run.answers is not None
        if not np.array_equal(first.answers["image"], run.answers["image"]):
            common = len(np.intersect1d(first.answers["image"], run.answers["image"]))
            counts = f"{len(first.answers):,} and {len(run.answers):,}, {common:,} in common"
            return (
                f"{first.name} and {run.name} were measured on different validation images ({counts}), so their "
                f"answers are not paired{_why_others(first, run)}."
            )
    return ""


def _why_others(first: ComparedRun, run: ComparedRun) -> str:
    """The rest of the sentence: why the two were measured on different images, and what would pair them."""
    if are_drawn_apart([first, run]):
        return ": with val_num_samples, each seed draws other images (--val_seed 0: the same)"
    differing = _differing_data([first, run])
    if differing and _is_part(run) and _val_seed(first) != _val_seed(run):
        differing.append("val_seed")
    return f"; to pair them, train both with the same {' and '.join(differing)}" if differing else ""


def _differing_data(runs: Sequence[ComparedRun]) -> list[str]:
    """The keys of the validation images in which these runs differ, as far as their configurations are known."""
    if not all(run.is_configured for run in runs):
        return []
    return [key for key in _MEASURED_ON if len({str(run.settings.get(key)) for run in runs}) > 1]


def are_drawn_apart(runs: Sequence[ComparedRun]) -> bool:
    """Whether these runs chose their validation images by `val_num_samples` and by different seeds."""
    if not all(run.is_configured and _is_part(run) for run in runs) or _differing_data(runs):
        return False
    return len({_val_seed(run) for run in runs}) > 1


def _is_part(run: ComparedRun) -> bool:
    """Whether the run was measured on a part of the validation images."""
    return bool(run.settings["val_num_samples"] != -1)


def _val_seed(run: ComparedRun) -> object:
    """The seed that drew the run's validation images."""
    own = run.settings["val_seed"]
    return run.seed if own == KEYS["val_seed"].written(OF_SEED) else own


def _right(group: Group) -> NDArray[np.float64]:
    """The share of the group's runs that answer each image rightly, images in the order of their fingerprints: (N,)."""
    rows = [np.empty(0, ANSWER) if run.answers is None else run.answers for run in group.measured]
    return np.mean([each["target"] == each["predicted"] for each in rows], axis=0, dtype=np.float64)


def headline(pairs: Sequence[Pair]) -> str:
    """Who wins, in one sentence."""
    if len(pairs) == 1:
        return pairs[0].sentence
    parts = []
    for verdict in ("better", "worse", "not decided"):
        named = [f"{pair.second.name}{_by(pair)}" for pair in pairs if pair.verdict == verdict]
        if named:
            parts.append(f"{verdict}: {', '.join(named)}")
    corrected = " (p-values after Holm's correction)" if count_of_tests(pairs) > 1 else ""
    return f"Compared with {pairs[0].first.name}, {'; '.join(parts)}{corrected}."


def count_of_tests(pairs: Sequence[Pair]) -> int:
    """How many p-values there are, which is what they are corrected for."""
    return sum(pair.p is not None for pair in pairs)


def _by(pair: Pair) -> str:
    return f" ({points(pair.deciding.value)} points)" if pair.deciding is not None else " (no test)"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.2f}".replace("-", "−")


def shown_p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


@dataclass(frozen=True)
class ClassRow:
    """A class: the accuracy of each group, None where it has no image, and the difference from the first."""

    name: str
    accuracies: list[float | None]
    most: float


def class_rows(groups: Sequence[Group]) -> list[ClassRow]:
    """Classes by name, those that differ most first."""
    found = [group.class_accuracy for group in groups]
    names = dict.fromkeys(name for each in found for name in each)
    rows = []
    for name in names:
        accuracies = [each.get(name) for each in found]
        known = [value for value in accuracies if value is not None]
        rows.append(ClassRow(name, accuracies, max(known) - min(known)))
    return sorted(rows, key=lambda row: -row.most)


def unlike_evaluation(run: ComparedRun) -> str:
    """What to say where the answers are of another evaluation than the figures; empty where they agree."""
    if run.answers is None or run.top1 is None:
        return ""
    held = fmean((run.answers["target"] == run.answers["predicted"]).tolist())
    if percent(held) == percent(run.top1):
        return ""
    return (
        f"The answers of {run.name} come from another evaluation ({percent(held)} top-1) than its figures "
        f"({percent(run.top1)}): tests by the images use the answers."
    )


def as_json(groups: Sequence[Group], pairs: Sequence[Pair]) -> dict[str, Any]:
    """All numbers of the comparison."""
    return {
        "headline": headline(pairs),
        "groups": [_group_json(group) for group in groups],
        "pairs": [
            {
                "first": pair.first.name,
                "second": pair.second.name,
                "verdict": pair.verdict,
                "difference": pair.value,
                "p": pair.p,
                "images": vars(pair.images) if pair.images else None,
                "seeds": vars(pair.seeds) if pair.seeds else None,
                "why_not": pair.why_not,
            }
            for pair in pairs
        ],
    }


def _group_json(group: Group) -> dict[str, Any]:
    runs = [
        {
            "name": run.name,
            "folder": str(run.files.folder),
            "seed": run.seed,
            "finished": run.is_finished,
            "weights": run.weights,
            "top1": run.top1,
            "loss": run.loss,
            "seconds": run.seconds,
            "images_per_second": run.images_per_second,
            "steps": run.steps,
            "parameters": run.parameters,
        }
        for run in group.runs
    ]
    left_out = [run.name for run in group.left_out]
    return {
        "name": group.name,
        "top1": group.mean(top1),
        "spread": group.spread(top1),
        "left_out": left_out,
        "runs": runs,
    }
