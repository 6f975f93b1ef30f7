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
        sys.stderr.write("setup: interrupted; the same command goes on\n")
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
        if not VENV_PYTHON.exists() and subprocess.call([python, "-m", "venv", ".venv"], cwd=str(ROOT)):
            raise SetupError("Python's venv is missing; on Debian: apt-get install python3-venv")
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
    """Run a program, which says itself what is wrong."""
    if subprocess.call(command, cwd=str(ROOT)):
        raise SetupError(f"{Path(command[0]).stem} has failed, see above; the same command goes on")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
