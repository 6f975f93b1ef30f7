"""When, on what and with which versions a number was measured: without that it means nothing."""

import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import torch

from t2t_vit.platforms import usable_cores
from t2t_vit.version import __version__

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "bf16", "i8mm", "sve")  # that decide speed


def circumstances(command: Sequence[str]) -> dict[str, Any]:
    """Date, commit, command line, hardware and versions, for a file of results."""
    found = instructions()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": " ".join(command),
        "processor": processor() + (f" ({', '.join(found)})" if found else ""),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        **versions(),
    }


def versions() -> dict[str, str]:
    """The versions that a number may depend on."""
    return {
        "t2t_vit": __version__,
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str:
    """The commit of this package, ending in -dirty where files were changed; empty where it is not known."""
    root = Path(__file__).parents[3]
    if (root / ".git").exists() and (root / "src/t2t_vit/bench").is_dir():  # not another's checkout around a .venv
        words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            described = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
        except OSError:  # there is no git
            return ""
        return described.stdout.strip()
    try:
        installed = distribution("t2t_vit").read_text("direct_url.json")  # what pip writes where it came from git
    except PackageNotFoundError:
        return ""
    return str(json.loads(installed).get("vcs_info", {}).get("commit_id", "")) if installed else ""


def processor() -> str:
    """The name of the processor, as far as the system gives it."""
    return _fact("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Which instructions it has of those that decide how fast it multiplies matrices."""
    flags = (_fact("flags") or _fact("Features")).split()
    return [name for name in INSTRUCTIONS if name in flags]


def _fact(name: str) -> str:
    """A line of the first processor's, by its name; empty where there is none."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    values = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name)
    return next(values, "")
