"""`t2t-vit doctor`: what this machine has, for choosing settings and for a report of a fault.

Nothing in it says who or where: no paths, no names of users, machines or networks, no values of the environment.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from t2t_vit.bench.circumstances import commit, instructions, processor, versions
from t2t_vit.data.memory import control_groups, free_memory, shown_bytes, text_of
from t2t_vit.errors import UserError
from t2t_vit.fast.fusing import why_not_fusible
from t2t_vit.fast.native import unavailable
from t2t_vit.fast.native.library import COMPILERS
from t2t_vit.fast.native.processor import LEVELS, cpu_level
from t2t_vit.platforms import machine_memory, open_files_limit, usable_cores
from t2t_vit.precision import cpu_multiplies_bf16
from t2t_vit.settings.command_line import Options
from t2t_vit.tables import table_lines
from t2t_vit.training.compilation import obstacle_to_compiling

# Optional packages that commands import.
OPTIONAL = (
    "torchvision", "numpy", "pillow", "safetensors", "onnx", "onnxruntime", "openvino", "nncf", "executorch",
    "tensorrt", "mindspore", "triton", "matplotlib", "pyarrow", "pillow-heif", "wandb", "mlflow-skinny", "optuna",
)  # fmt: skip
SIZES = ("of the machine", "free for this process", "/dev/shm", "disk of this folder, free", "memory")  # in bytes
NONE = "none"
Facts = dict[str, str | int | float | None]


def run(options: Options) -> int:
    """Print everything, as tables or as one JSON object."""
    found = examine()
    if "json" in options.extras:
        print(json.dumps(found, indent=2))
        return 0
    for section, facts in found.items():
        print(section)
        rows = [(name, shown(name, value)) for name, value in facts.items()]
        print(*(f"  {line}" for line in table_lines((), rows, left=(0, 1))), sep="\n", end="\n\n")
    print("Paste this into a bug report. It contains no paths and no names of users or machines.")
    return 0


def examine(root: Path = Path("/")) -> dict[str, Facts]:
    """Section -> fact -> value; None is what is missing or not known.

    Args:
        root: where proc/, sys/ and dev/ lie.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return {
        "versions": {**versions(), "commit": commit() or None, **{name: _version(name) for name in OPTIONAL}},
        "processor": _processor(),
        "kernels": {
            "pack": _or_ready(unavailable, "compiled for this processor"),
            "fuse": _or_ready(lambda: why_not_fusible(device), "Triton kernels"),
        },
        "devices": dict(_devices()) or {"accelerators": NONE},
        "compiler": {
            "C++": _compiler(),
            "torch.compile": _or_ready(lambda: obstacle_to_compiling(device) or None, f"works on {device.type}"),
        },
        "memory": {
            "of the machine": machine_memory() or None,
            "free for this process": free_memory(root) or None,
            "/dev/shm": _free(root / "dev/shm"),
            "disk of this folder, free": _free(Path()),
        },
        "limits of the container or job": _limits(root),
    }


def shown(name: str, value: str | float | None) -> str:
    """A fact for people: bytes with their unit, a dash for what is missing."""
    if value is None:
        return "-"
    return shown_bytes(value) if isinstance(value, int) and name in SIZES else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> Facts:
    try:
        level = cpu_level()
    except UserError as error:
        level = str(error)
    return {
        "name": processor(),
        "instructions": ", ".join(instructions()) or None,
        "level of the kernels": f"{level} (of {', '.join(LEVELS)})",
        "multiplies bfloat16": str(cpu_multiplies_bf16()),
        "cores for this process": usable_cores(),
        "threads of torch": torch.get_num_threads(),
        "torch's own level": torch.backends.cpu.get_cpu_capability(),
    }


def _or_ready(reason: Callable[[], str | None], ready: str) -> str:
    """Why something cannot run, without the paths that a compiler's message holds, or that it is ready."""
    try:
        why = reason()
    except UserError as error:
        why = str(error)
    if why is None:
        return ready
    if "fails" in why:
        return "not available: compiling fails; t2t-vit bench model --kernels native prints the compiler's message"
    return f"not available: {why}"


def _devices() -> Iterator[tuple[str, str]]:
    """Each accelerator with what torch says of it."""
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            capability = f"{facts.major}.{facts.minor}"
            kind = "ROCm" if torch.version.hip else f"CUDA {torch.version.cuda}, compute capability {capability}"
            yield f"cuda:{number}", f"{facts.name}, {shown_bytes(facts.total_memory)}, {kind}"
    elif torch.accelerator.is_available():
        kind = str(torch.accelerator.current_accelerator())
        for number in range(torch.accelerator.device_count()):
            yield f"{kind}:{number}", "available"


def _compiler() -> str | None:
    """The first line of `--version` of the compiler that the kernels are built with."""
    found = next((name for name in COMPILERS if shutil.which(name)), None)
    if found is None:
        return None
    try:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return f"{found}, which does not run"
    return (said.splitlines() or [found])[0]


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _limits(root: Path) -> Facts:
    """The least of what each control group that this process is in allows, and the limits of the process itself."""
    memory, processors, processes = list[int](), list[float](), list[int]()
    for limit, _ in control_groups(root):
        memory += _numbers(limit)
        processes += _numbers(limit.with_name("pids.max"))
        quota = text_of(limit.with_name("cpu.max")).split()
        if len(quota) == 2 and quota[0].isdigit():
            processors.append(int(quota[0]) / int(quota[1]))
    memory = [size for size in memory if size < 2**60]  # version 1's way of writing "no limit"
    return {
        "memory": min(memory, default=None),
        "processors": min(processors, default=None),
        "processes": min(processes, default=None),
        "open files": open_files_limit(),
    }


def _numbers(path: Path) -> list[int]:
    return [int(word) for word in text_of(path).split()[:1] if word.isdigit()]
