"""The compiled kernels: built on first use by the machine's own compiler, kept in the user's cache, loaded once."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from shutil import which
from tempfile import gettempdir

import torch

from t2t_vit.errors import OutputError
from t2t_vit.fast.native.processor import SWITCH, cpu_level, instructions, processor_level
from t2t_vit.files import user_cache, working_folder
from t2t_vit.platforms import is_safe_from_others, sync_folder

FOLDER = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
# -march=native: the file is for this processor, whose instructions are part of its name.
FLAGS = ("-O3", "-std=c++17", "-march=native", "-fopenmp", "-shared", "-fPIC")
# The levels that there are kernels for, and what makes the compiler write those of a level.
LEVEL_FLAGS = {"avx512_bf16": (), "amx": ("-DT2T_VIT_AMX",)}
SECONDS = 120  # a compiler takes two
_BUILD = "native"
_KEPT = 8  # libraries: of several environments, and of several processors where they share a home folder


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
        folder = _folder()
        if folder is not None:
            # A disk may be full, a folder have been removed or made read-only a moment ago.
            with suppress(OSError, OutputError):
                return ctypes.CDLL(str(_kept(compiler, level, folder)))
        with working_folder(Path(gettempdir()), _BUILD) as name:  # once it is loaded, its file may go
            return ctypes.CDLL(str(_compiled(compiler, level, name / "kernels.so")))
    except (OSError, OutputError, subprocess.SubprocessError) as error:
        return f"compiling them with {compiler} fails ({_first_line(error)})"


def _kept(compiler: str, level: str, folder: Path) -> Path:
    """The library's file in `folder`, compiled if it is not there; processes that come at once do it twice.

    Of those of other versions and processors the last used are kept.

    Its name ends with the hash of its content: half a file, or an empty one, would end the process that loads it.
    """
    made_from = _sources_hash(compiler, level)
    for path in folder.glob(f"{made_from}-*.so"):
        if path.is_file() and path.name == f"{made_from}-{_hash(path.read_bytes())}.so":
            with suppress(OSError):
                os.utime(path)  # the oldest are removed
            return path
        with suppress(OSError):  # another process may remove it now
            _remove(path)
    with working_folder(folder, _BUILD) as name:
        fresh = _compiled(compiler, level, name / "kernels.so")
        with fresh.open("rb") as file:
            content = file.read()
            os.fsync(file.fileno())
        kept = fresh.rename(folder / f"{made_from}-{_hash(content)}.so")
        sync_folder(folder)
        for path in sorted(folder.glob("*.so"), key=_last_used)[:-_KEPT]:
            with suppress(OSError):
                _remove(path)
        return kept


def _last_used(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:  # another process has removed it
        return 0.0


def _compiled(compiler: str, level: str, path: Path) -> Path:
    units = [str(source) for source in sorted(FOLDER.glob("*.cpp"))]
    command = [compiler, *FLAGS, *LEVEL_FLAGS[level], *units, "-o", str(path), *_openmp()]
    # What the compiler leaves when it is killed lies beside its result, and goes with it.
    where = os.environ | {"TMPDIR": str(path.parent)}
    subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL, env=where
    )
    return path


def _sources_hash(compiler: str, level: str) -> str:
    sources = sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])
    settings = " ".join([compiler, *FLAGS, *LEVEL_FLAGS[level], *sorted(instructions()), torch.__version__])
    return _hash(b"".join(source.read_bytes() for source in sources) + settings.encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _remove(path: Path) -> None:
    """Whatever lies where a library should."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _openmp() -> list[str]:
    """torch's own OpenMP, by its file where it has a name of its own: two of them in a process fight for the cores."""
    beside = Path(torch.__file__).parent
    return [str(path) for folder in (beside / "lib", beside.parent / "torch.libs") for path in folder.glob("libgomp*")]


def _folder() -> Path | None:
    """Where compiled kernels are kept: a folder that nobody but this user and root may write; None: there is none."""
    base = user_cache()
    if base is None:
        return None
    folder = base / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What somebody else may write is not loaded. What this user may not write may hold a library all the same.
        return folder if is_safe_from_others(folder) else None
    except OSError:
        return None


def _first_line(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) and error.stderr else str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0][:200]
