"""A launcher that is killed takes its processes with it."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2t_vit.training import orphan

CHILD = "from t2t_vit.training.orphan import end_with_launcher; end_with_launcher(); print('on', flush=True); input()"
LAUNCHER = f"""
import subprocess, sys, time
line = [sys.executable, "-c", {CHILD!r}]
child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_a_process_dies_with_its_launcher() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        child = Path(f"/proc/{launcher.stdout.readline().strip()}/stat")
        assert child.exists()
        launcher.send_signal(signal.SIGKILL)
    until = time.monotonic() + 300
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
@pytest.mark.parametrize(("by_torchrun", "code"), [(True, 128 + signal.SIGKILL), (False, 0)])
def test_a_process_that_another_took_in_ends_at_once(by_torchrun: bool, code: int) -> None:
    """Its launcher died while it started; here the shell is who takes in orphans, or who launches without torchrun."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    child = "from t2t_vit.training.orphan import end_with_launcher; end_with_launcher()"
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(child)}; exit $?"],
        env={**environment, "TORCHELASTIC_RUN_ID": "none"} if by_torchrun else environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith("the launcher of this process is gone") == by_torchrun


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_a_python_may_be_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert orphan._may_have_launched(os.getpid())
