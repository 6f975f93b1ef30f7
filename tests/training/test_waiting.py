"""The line that a terminal shows before a run's first."""

import io
import subprocess
import sys

import pytest

from t2t_vit.cli.main import main
from t2t_vit.training import waiting
from t2t_vit.training.journal import Console
from t2t_vit.training.waiting import shown_before_a_run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_for(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error is a terminal from now on. (No fixture: pytest resets it after fixtures.)"""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


def test_it_ends_with_the_first_line_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    with shown_before_a_run():
        console = Console(live=True, held=True)
        console.line("a note")
        assert waiting._line is not None
        console.begin()
        assert waiting._line is None
        console.close()
    shown = terminal.getvalue()
    assert 0 <= shown.index("starting: program") < shown.index("a note")


def test_it_ends_where_a_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    Console(live=True, held=True).close()
    assert waiting._line is None
    assert main(["train", "--config", "quickstart", "--data_url", "nowhere", "--dataset", "ImageNet"]) == 2
    assert waiting._line is None
    shown = terminal.getvalue()
    assert shown.index("starting: program") < shown.rindex("t2t-vit: data_url nowhere")


def test_nothing_is_shown_in_a_pipe_by_another_process_or_for_another_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = terminal_for(monkeypatch)
    with shown_before_a_run(is_run=False):
        assert waiting._line is None
    assert main(["train", "--config", "quickstart", "--print_config"]) == 0
    monkeypatch.setenv("RANK", "1")
    with shown_before_a_run():
        assert waiting._line is None
    assert terminal.getvalue() == ""
    monkeypatch.delenv("RANK")
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with shown_before_a_run():
        assert waiting._line is None


def test_it_needs_no_torch() -> None:
    program = "import sys, t2t_vit.training.waiting as w; w.begin(); w.end(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
