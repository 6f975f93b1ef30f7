"""Contestants run in turn, so that what else the machine does meets all alike: ratios, rates, a file of both."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from t2t_vit.bench import circumstances as here
from t2t_vit.bench import profiling
from t2t_vit.bench.profiling import Spread
from t2t_vit.files import atomic_write

ROOT = Path(__file__).parents[1]


def in_turn(
    contestants: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run of each contestant, each once a round; on the GPU where there is one."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return profiling.in_turn(contestants, device, repeats=repeats, warm_up=warm_up)


def ratio(seconds: Mapping[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """How many times faster `ours` is: the median over the rounds, with the least and the greatest."""
    return Spread.of(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)).to_dict()


def rates(seconds: Mapping[str, list[float]], images: int) -> dict[str, dict[str, float]]:
    """Images a second of each contestant: the median, with the least and the greatest."""
    return {name: Spread.of(images / value for value in values).to_dict() for name, values in seconds.items()}


def circumstances() -> dict[str, Any]:
    """When, on what and with which versions, and by which command."""
    return here.circumstances(["python", *sys.argv])


def write(report: Mapping[str, Any], path: Path) -> None:
    """The report as JSON."""
    with atomic_write(path, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
