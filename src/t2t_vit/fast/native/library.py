"""The compiled kernels: built on first use by the machine's own compiler, kept in the user's cache, loaded once."""

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from shutil import which

import torch

from t2t_vit.fast.native.processor import SWITCH, cpu_level, instructions, processor_level

FOLDER = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
# -march=native: the file is for this processor, whose instructions are part of its name.
FLAGS = ("-O3", "-std=c++17", "-march=native", "-fopenmp", "-shared", "-fPIC")
# The levels that there are kernels for, and what makes the compiler write those of a level.
LEVEL_FLAGS = {"avx512_bf16": (), "amx": ("-DT2T_VIT_AMX",)}
SECONDS = 120  # a compiler takes two


def unavailable() -> str | None:
    """Why the kernels cannot run here, as the end of a sentence; None: they can. The first call may compile them.

    Raises:
        UserError: see `cpu_level`.
    """
    found = _found(cpu_level())
    return found if isinstance(found, str) else None


def library() -> ctypes.CDLL:
    """The kernels.

    Raises:
        RuntimeError: they are unavailable, which the caller should have asked.
    """
    found = _found(cpu_level())
    if not isinstance(found, str):
        return found
    raise RuntimeError(f"the native kernels cannot run: {found}")


def has_tiles() -> bool:
    """Whether the kernels multiply on the processor's matrix unit (AMX)."""
    return unavailable() is None and bool(library().has_tiles())


@cache
def _found(level: str) -> ctypes.CDLL | str:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"they are for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    if level not in LEVEL_FLAGS:
        if level != processor_level():
            return f"there are none for {SWITCH}={level}"
        return "this processor has no avx512_bf16"
    compiler = next((path for name in COMPILERS if (path := which(name))), None)
    if compiler is None:
        return f"there is no C++ compiler ({', '.join(COMPILERS)})"
    try:
        return ctypes.CDLL(str(_compiled(compiler, level)))
    except (OSError, subprocess.SubprocessError) as error:
        return f"compiling them with {compiler} fails ({_first_line(error)})"


def _compiled(compiler: str, level: str) -> Path:
    """The library's file, compiled if it is not there; processes that come at once do it twice, to the same end."""
    flags = [*FLAGS, *LEVEL_FLAGS[level]]
    sources = sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])
    content = b"".join(source.read_bytes() for source in sources)
    settings = " ".join([compiler, *flags, *sorted(instructions()), torch.__version__])
    name = hashlib.sha256(content + settings.encode()).hexdigest()[:24]
    folder = _folder()
    path = folder / f"{name}.so"
    if not path.exists():
        handle, part = tempfile.mkstemp(suffix=".part", dir=folder)
        os.close(handle)
        units = [str(source) for source in sources if source.suffix == ".cpp"]
        command = [compiler, *flags, *units, "-o", part, *_openmp()]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        Path(part).replace(path)
    return path


def _openmp() -> list[str]:
    """torch's own OpenMP, by its file where it has a name of its own: two of them in a process fight for the cores."""
    beside = Path(torch.__file__).parent
    return [str(path) for folder in (beside / "lib", beside.parent / "torch.libs") for path in folder.glob("libgomp*")]


def _folder() -> Path:
    """Where compiled kernels are kept: a folder of this user's alone, or one for this process where there is none."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "t2t_vit" / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
        # What somebody else may write is not loaded.
        if state.st_uid == os.getuid() and not state.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="t2t_vit-native-"))


def _first_line(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) and error.stderr else str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0][:200]
