"""A launcher that is killed takes its processes with it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = "from t2t_vit.training.orphan import end_with_launcher; end_with_launcher(); print('on', flush=True); input()"
LAUNCHER = f"""
import subprocess, sys, time
line = [sys.executable, "-c", {CHILD!r}]
child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_a_process_dies_with_its_launcher() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        child = Path(f"/proc/{launcher.stdout.readline().strip()}/stat")
        assert child.exists()
        launcher.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"
