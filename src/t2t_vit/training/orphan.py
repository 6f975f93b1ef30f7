"""A process of several ends with the launcher that started it."""

import ctypes
import os
import signal
import sys
from pathlib import Path

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


def end_with_launcher() -> None:
    """On Linux: have this process killed at the moment that its launcher dies.

    torchrun starts each process in a session of its own, so a SIGKILL of torchrun, or of its process group, does not
    reach them: they would train on, and write into the folders of the run that is continued in the meantime.
    """
    if sys.platform != "linux":
        return
    launcher = os.getppid()
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != launcher or not _may_have_launched(launcher):  # it died a moment ago
        sys.stderr.write("the launcher of this process is gone, so it ends\n")
        os.kill(os.getpid(), signal.SIGKILL)


def _may_have_launched(parent: int) -> bool:
    """Whether torchrun can be this process, and not the one that takes in orphans: init, systemd, a container's first.

    While a process of torchrun's starts, for seconds, its launcher may die unnoticed; it would then wait for the others
    for half an hour. torchrun, and what starts processes by its library, is a Python of the same user.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return True
    try:
        return "python" in Path(f"/proc/{parent}/exe").readlink().name
    except OSError:
        return False
