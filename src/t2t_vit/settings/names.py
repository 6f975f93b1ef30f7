"""The name that a misspelt one is likely to mean."""

import difflib
from collections.abc import Iterable

# What other tools call them: names too far from ours to be found by likeness.
SYNONYMS = {
    "lr": "base_lr",
    "learning_rate": "base_lr",
    "wd": "weight_decay",
    "model": "arch",
    "checkpoint": "pretrained",
    "weights": "pretrained",
    "amp": "amp_level",
    "ema": "with_ema",
    "workers": "num_parallel_workers",
    "warmup_epochs": "warmup_length",
    "data": "data_url",
    "device": "device_id",
    "classes": "num_classes",
    "smoothing": "label_smoothing",
}


def nearest(name: str, names: Iterable[str]) -> str:
    """The name most like `name`, whatever its case; one that `name` abbreviates where there is one."""
    folded, name = {candidate.lower(): candidate for candidate in names}, name.lower()
    whole = [candidate for candidate in folded if name and candidate.startswith(name)]
    return folded[difflib.get_close_matches(name, whole or folded, n=1, cutoff=0.0)[0]]


def nearest_key(name: str, names: Iterable[str]) -> str:
    """The name among `names` that `name` is likely to mean."""
    names, name = tuple(names), name.replace("-", "_").lower()
    return SYNONYMS[name] if SYNONYMS.get(name) in names else nearest(name, names)
