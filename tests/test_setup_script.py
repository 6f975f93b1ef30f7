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
  *install*) echo "$SAYS"; exit "${FAILS:-0}" ;;
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
    assert len([call for call in set_up(checkout, "dev")[2] if "install" in call]) == 1
    (checkout / "constraints.txt").write_text("torch==99", encoding="utf-8")
    assert len([call for call in set_up(checkout, "export,report")[2] if "install" in call]) == 1


def test_uv_is_used_where_it_is_installed(checkout: Path) -> None:
    program(checkout.parent, "uv")
    code, _, calls = set_up(checkout, "dev")
    assert code == 0
    assert calls[0] == f"uv venv --quiet --python {os.environ['PYTHON']} .venv"
    assert calls[1].startswith("uv pip install --quiet --python ") and calls[1].endswith("--editable .[dev]")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("WARNING: Retrying\nERROR: Could not install: [Errno 28] No space left on device\n", "the disk is full; "),
        ("WARNING: Retrying: NewConnectionError\nERROR: (from versions: none)", "packages cannot be downloaded; "),
        (
            "error: Failed to fetch: `torch`\n  Caused by: dns error",
            "packages cannot be downloaded; ",
        ),
        ("ERROR: [Errno 13] Permission denied: '.venv'", "this user may not write here; "),
        ("a page of output\nERROR: no such extra\n\n", "ERROR: no such extra; "),
        ("", "installing has failed; "),
    ],
)
def test_what_fails_is_one_sentence_and_is_tried_again(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, said: str, sentence: str
) -> None:
    monkeypatch.setenv("FAILS", "1")
    monkeypatch.setenv("SAYS", said)
    code, told, _ = set_up(checkout, "dev")
    (line,) = told.splitlines()[1:]
    assert (
        code == 2 and line.startswith(f"setup: {sentence}") and line.endswith("; the same command continues from here")
    )
    monkeypatch.setenv("FAILS", "0")
    code, told, _ = set_up(checkout, "dev")
    assert (code, len(told.splitlines())) == (0, 1)


def test_a_python_without_venv_and_none_that_fits(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '#!/bin/sh\ntest "$1" = -c || { echo "created, but ensurepip is not available"; exit 1; }\n'
    monkeypatch.setenv("PYTHON", program(checkout.parent, "bare", text))
    code, said, _ = set_up(checkout, "dev")
    assert code == 2 and "apt-get install python3-venv" in said
    namespace: dict[str, object] = {"__name__": "setup", "__file__": str(checkout / "scripts/setup.py")}
    exec(compile(SCRIPT.read_text(encoding="utf-8"), "setup.py", "exec"), namespace)
    monkeypatch.setattr(subprocess, "call", lambda *_, **__: 1)
    assert namespace["main"](["dev"]) == 2  # type: ignore[operator]


def test_without_extras_it_says_how_it_is_called(checkout: Path) -> None:
    code, said, calls = set_up(checkout)
    assert (code, calls) == (2, []) and said.startswith("Usage: python scripts/setup.py EXTRAS")
