"""Contestants run in turn, so that what else the machine does meets all of them alike."""

import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]


def in_turn(
    contestants: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run of each contestant; round by round, each once a round. The first `warm_up` do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    gc.collect()
    for turn in range(warm_up + repeats):
        for name, run in contestants.items():
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronise() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(seconds: Mapping[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """How many times faster `ours` is: the median over the rounds, with the least and the greatest."""
    rounds = sorted(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))
    return {"median": statistics.median(rounds), "low": rounds[0], "high": rounds[-1]}


def rates(seconds: Mapping[str, list[float]], images: int) -> dict[str, dict[str, float]]:
    """Images a second of each contestant: the median, with the least and the greatest."""
    found = {}
    for name, values in seconds.items():
        ordered = sorted(images / value for value in values)
        found[name] = {"median": statistics.median(ordered), "low": ordered[0], "high": ordered[-1]}
    return found


def circumstances() -> dict[str, Any]:
    """When, on what and with which versions."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """Its name and which low-precision instructions it has."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
    flags = [flag for flag in known if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.processor())} ({', '.join(flags)})"


def write(report: Mapping[str, Any], path: Path) -> None:
    """The report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
