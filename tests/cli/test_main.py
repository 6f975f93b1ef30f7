"""The program: which command, which exit code, and what its help imports."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from t2t_vit.cli import main as program
from t2t_vit.errors import UserError
from t2t_vit.settings.command_line import Options


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the command train: its `run` may be set."""
    module = ModuleType("t2t_vit.cli.train")
    monkeypatch.setitem(sys.modules, "t2t_vit.cli.train", module)
    return module


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_gets_its_options_and_gives_the_exit_code(train: ModuleType, code: int) -> None:
    seen: list[Options] = []
    train.run = lambda options: seen.append(options) or code  # type: ignore[attr-defined]
    assert program.main(["train", "t2t_vit_7", "--epochs", "3"]) == code
    assert [(options.command.name, options.line, options.path.stem) for options in seen if options.path] == [
        ("train", {"epochs": 3}, "t2t_vit_7")
    ]


def test_a_mistake_on_the_line_is_told_before_the_command_is_imported(
    train: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not hasattr(train, "run")
    assert program.main(["train", "--epoch", "3"]) == 2
    assert capsys.readouterr() == ("", "t2t-vit: unknown option '--epoch'; did you mean '--epochs'?\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x.yaml: what\nelse"), 2, "t2t-vit: x.yaml: what else\n"),
        (KeyboardInterrupt(), 130, "t2t-vit: interrupted\n"),
    ],
)
def test_mistakes_and_interruptions(
    train: ModuleType, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    def run(_options: Options) -> int:
        raise error

    train.run = run  # type: ignore[attr-defined]
    assert program.main(["train"]) == code
    assert capsys.readouterr() == ("", line)


def test_our_own_mistakes_keep_their_traceback(train: ModuleType) -> None:
    def run(_options: Options) -> int:
        raise ValueError("ours")

    train.run = run  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="ours"):
        program.main(["train"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["trian"],
            "t2t-vit: unknown command 'trian'; did you mean 'train'? The commands are train, eval, infer, export, ",
        ),
        (["--epochs", "3"], "t2t-vit: '--epochs' comes before the command; write t2t-vit COMMAND --epochs"),
    ],
)
def test_unknown_commands(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(sentence)
    assert err.count("\n") == 1


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--help"]) == 0
    assert "  train       train a network\n" in capsys.readouterr().out
    assert program.main([]) == 2
    assert "Usage: t2t-vit COMMAND" in capsys.readouterr().err
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("t2t-vit ")


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; from t2t_vit.cli.main import main; sys.exit(main(['--help']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() in (0, 141)
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "parsing"),
    [(["--help"], []), (["--version"], []), (["train", "--help"], ["yaml"]), (["weights", "--help"], ["yaml"])],
)
def test_help_imports_nothing_heavy(words: list[str], parsing: list[str]) -> None:
    heavy = "torch", "rich", "timm", "numpy", "PIL", "tensorboard", "yaml"
    code = (
        "import sys\nfrom t2t_vit.cli.main import main\n"
        f"try: main({words})\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == f"{parsing}\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_mistake(closed: str) -> None:
    program = f"{sys.executable} -c 'from t2t_vit.cli.main import main; raise SystemExit(main())'"
    done = subprocess.run(f"{program} --version {closed}", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(f"{program} nothing {closed}", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_full_disk_behind_standard_output_is_one_sentence() -> None:
    code = "from t2t_vit.cli.main import main; raise SystemExit(main(['train', '--print_config']))"
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No space left" in done.stderr
