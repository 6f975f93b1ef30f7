"""Which processor the compiled kernels are for."""

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

from t2t_vit.errors import UserError

SWITCH = "T2T_VIT_CPU"
# Linux's names of the instructions that a level has beside those of the levels before it.
INSTRUCTIONS = {
    "none": (),
    "avx2": ("avx2", "fma"),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    "avx512_bf16": ("avx512_bf16",),
    "amx": ("amx_tile", "amx_bf16"),
}
LEVELS = tuple(INSTRUCTIONS)


@cache
def cpu_level() -> str:
    """The level, one of `LEVELS`, that kernels may use: the processor's own, or a lower one that `T2T_VIT_CPU` names.

    The environment is read at the first call.

    Raises:
        UserError: `T2T_VIT_CPU` names no level, or one that this processor does not have.
    """
    best = processor_level()
    asked = os.environ.get(SWITCH, "")
    if not asked:
        return best
    if asked not in LEVELS:
        raise UserError(f"{SWITCH}: {asked!r} is not one of {', '.join(LEVELS)}")
    if LEVELS.index(asked) > LEVELS.index(best):
        raise UserError(f"{SWITCH}: this processor does not have {asked}; its highest level is {best}")
    return asked


def processor_level() -> str:
    """The highest level of this processor whose instructions this process may use."""
    has, level = instructions(), LEVELS[0]
    for name, needed in INSTRUCTIONS.items():
        if not has.issuperset(needed) or (name == "amx" and not _may_use_tiles()):
            break
        level = name
    return level


def instructions() -> frozenset[str]:
    """What the processor can do, in Linux's words; nothing on another system or another kind of processor."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def _may_use_tiles() -> bool:
    """Asks Linux for the matrix unit's registers: without that its instructions are illegal in this process."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)
