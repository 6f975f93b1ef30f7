"""Usage: python scripts/setup.py EXTRAS      for example: python scripts/setup.py export,report

Makes .venv in the checkout and installs the package with these extras, at the versions of constraints.txt: by uv where
it is installed, else by pip. Nothing is done where that is there already. Any Python 3 can run this, on any platform.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
FITS = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
# What is printed -> what pip, uv or the system say then.
CAUSES = {
    "the disk is full; PyTorch and what it needs take about 6 GB": ("No space left on device", "os error 28"),
    "packages cannot be downloaded; is there a network, or a proxy to name in HTTPS_PROXY?": (
        "from versions: none", "NewConnectionError", "ConnectionError", "dns error", "Temporary failure in name",
        "Failed to fetch", "error sending request", "ReadTimeoutError",
    ),
    "Python's venv is missing; on Debian: apt-get install python3-venv": ("ensurepip is not", "No module named venv"),
    "this user may not write here": ("Permission denied", "os error 13", "Access is denied"),
}  # fmt: skip
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class SetupError(Exception):
    """What is missing, in one sentence."""


def main(words):
    """Exit code: 0 done, 2 something is missing."""
    if len(words) != 1 or words[0].startswith("-"):
        sys.stderr.write(__doc__)
        return 2
    try:
        set_up(words[0])
    except SetupError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("setup: interrupted; the same command continues\n")
        return 130
    return 0


def set_up(extras):
    """Make the environment, unless it was made from the same requirements before."""
    stamp = VENV / f".installed-{extras}"
    requirements = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt"))
    wanted = "{} {}".format(requirements.rstrip("\n"), extras)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    python = fitting_python()
    sys.stderr.write(f"setup: .venv with t2t_vit[{extras}] (torch is large: some minutes the first time)\n")
    sys.stderr.flush()
    package = ["--constraint", "constraints.txt", "--editable", f".[{extras}]"]
    if shutil.which("uv"):
        if not VENV_PYTHON.exists():
            call("uv", "venv", "--quiet", "--python", python, ".venv")
        call("uv", "pip", "install", "--quiet", "--python", str(VENV_PYTHON), *package)
    else:
        if not VENV_PYTHON.exists() or subprocess.call([str(VENV_PYTHON), "-m", "pip", "--version"], **QUIET):
            call(python, "-m", "venv", ".venv")  # which also continues where it was stopped before
        call(str(VENV_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *package)
    stamp.write_text(wanted, encoding="utf-8")


def fitting_python():
    """The first Python that is new enough and not too new: $PYTHON, this one, or one of the path."""
    names = ["python3", "python3.13", "python3.12", "python3.11", "python"]
    for candidate in [os.environ.get("PYTHON"), sys.executable, *map(shutil.which, names)]:
        try:
            if candidate and subprocess.call([candidate, "-c", FITS], **QUIET) == 0:
                return candidate
        except OSError:
            continue
    raise SetupError("Python 3.11, 3.12 or 3.13 is missing; install it, or name it: make PYTHON=/path/to/python")


def call(*command):
    """Run a program; what it says is kept back, and where it fails the reason is looked for in it."""
    done = subprocess.run(command, check=False, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SetupError(f"{reason(done.stdout.decode('utf-8', 'replace'))}; the same command continues from here")


def reason(said):
    """Why pip or uv failed: in our words where the cause is a common one, else its own last word."""
    for sentence, signs in CAUSES.items():
        if any(sign in said for sign in signs):
            return sentence
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["installing has failed"])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
