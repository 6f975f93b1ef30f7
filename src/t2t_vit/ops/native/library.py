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

FOLDER = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
# -march=native: the file is for this processor, whose name is part of its own.
FLAGS = ("-O3", "-std=c++17", "-march=native", "-fopenmp", "-shared", "-fPIC")
NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512_bf16")
SECONDS = 120  # a compiler takes two


def unavailable() -> str | None:
    """Why the kernels cannot run here, as the end of a sentence; None: they can. The first call may compile them."""
    found = _found()
    return found if isinstance(found, str) else None


def library() -> ctypes.CDLL:
    """The kernels.

    Raises:
        RuntimeError: they are unavailable, which the caller should have asked.
    """
    found = _found()
    if not isinstance(found, str):
        return found
    raise RuntimeError(f"the native kernels cannot run: {found}")


@cache
def has_tiles() -> bool:
    """Whether the processor has a matrix unit (AMX) that this process may use."""
    return bool(library().has_tiles())


@cache
def _found() -> ctypes.CDLL | str:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"they are for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    processor = _processor()
    missing = [name for name in NEEDED if name not in processor.split()]
    if missing:
        return f"this processor has no {', '.join(missing)}"
    compiler = next((path for name in COMPILERS if (path := which(name))), None)
    if compiler is None:
        return f"there is no C++ compiler ({', '.join(COMPILERS)})"
    try:
        loaded = ctypes.CDLL(str(_compiled(compiler, processor)))
        # Linux lends the matrix unit's registers to a process that asks; without asking its instructions are illegal.
        loaded.has_tiles()
    except (OSError, subprocess.SubprocessError) as error:
        return f"compiling them with {compiler} fails ({_first_line(error)})"
    return loaded


def _compiled(compiler: str, processor: str) -> Path:
    """The library's file, compiled if it is not there; processes that come at once do it twice, to the same end."""
    sources = sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])
    content = b"".join(source.read_bytes() for source in sources)
    settings = " ".join([compiler, *FLAGS, processor, torch.__version__])
    name = hashlib.sha256(content + settings.encode()).hexdigest()[:24]
    folder = _folder()
    path = folder / f"{name}.so"
    if not path.exists():
        handle, part = tempfile.mkstemp(suffix=".part", dir=folder)
        os.close(handle)
        units = [str(source) for source in sources if source.suffix == ".cpp"]
        command = [compiler, *FLAGS, *units, "-o", part, *_openmp()]
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


def _processor() -> str:
    """What the processor can do: Linux's list of flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("flags")), "")


def _first_line(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) and error.stderr else str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0][:200]
