"""A process of several ends with the launcher that started it."""

import ctypes
import os
import signal
import sys

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
    if os.getppid() != launcher:  # it died a moment ago
        os.kill(os.getpid(), signal.SIGKILL)
