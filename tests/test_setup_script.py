"""scripts/setup.py, with programs in place of uv, pip and Python that write down how they were called."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/setup.py"
WRITES_DOWN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
  "-c import sys"*) exit 0 ;;
  *venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *install*) exit "${FAILS:-0}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "ein Ordner für T2T"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, folder / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).write_text(f"{name}\n", encoding="utf-8")
    (tmp_path / "programs").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHON", program(tmp_path, "somepython"))
    monkeypatch.chdir(tmp_path)
    return folder


def program(folder: Path, name: str, text: str = WRITES_DOWN) -> str:
    path = folder / "programs" / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def set_up(checkout: Path, *words: str) -> tuple[int, str, list[str]]:
    """Exit code, standard error and the calls that were made."""
    calls = Path(os.environ["CALLS"])
    calls.write_text("", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(checkout / "scripts/setup.py"), *words], capture_output=True, text=True, check=False
    )
    made = calls.read_text(encoding="utf-8").splitlines()
    return done.returncode, done.stderr, [call for call in made if "import sys" not in call]


def test_pip_installs_the_extras_once(checkout: Path) -> None:
    code, said, calls = set_up(checkout, "export,report")
    assert (code, said) == (
        0,
        "setup: .venv with t2t_vit[export,report] (torch is large: some minutes the first time)\n",
    )
    assert calls == [
        "somepython -m venv .venv",
        "python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "
        "--editable .[export,report]",
    ]
    assert set_up(checkout, "export,report") == (0, "", [])
    assert len(set_up(checkout, "dev")[2]) == 1
    (checkout / "constraints.txt").write_text("torch==99", encoding="utf-8")
    assert len(set_up(checkout, "export,report")[2]) == 1


def test_uv_is_used_where_it_is_installed(checkout: Path) -> None:
    program(checkout.parent, "uv")
    code, _, calls = set_up(checkout, "dev")
    assert code == 0
    assert calls[0] == f"uv venv --quiet --python {os.environ['PYTHON']} .venv"
    assert calls[1].startswith("uv pip install --quiet --python ") and calls[1].endswith("--editable .[dev]")


def test_what_fails_is_one_sentence_and_is_tried_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILS", "1")
    code, said, _ = set_up(checkout, "dev")
    assert (code, said.splitlines()[1:]) == (2, ["setup: python has failed, see above; the same command goes on"])
    monkeypatch.delenv("FAILS")
    assert set_up(checkout, "dev")[0] == 0


def test_a_python_without_venv_and_none_that_fits(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON", program(checkout.parent, "bare", '#!/bin/sh\ntest "$1" = -c\n'))
    code, said, _ = set_up(checkout, "dev")
    assert code == 2 and "apt-get install python3-venv" in said
    namespace: dict[str, object] = {"__name__": "setup", "__file__": str(checkout / "scripts/setup.py")}
    exec(compile(SCRIPT.read_text(encoding="utf-8"), "setup.py", "exec"), namespace)
    monkeypatch.setattr(subprocess, "call", lambda *_, **__: 1)
    assert namespace["main"](["dev"]) == 2  # type: ignore[operator]


def test_without_extras_it_says_how_it_is_called(checkout: Path) -> None:
    code, said, calls = set_up(checkout)
    assert (code, calls) == (2, []) and said.startswith("Usage: python scripts/setup.py EXTRAS")
