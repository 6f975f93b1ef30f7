"""What is printed of text that is not ours."""

from pathlib import Path

import pytest

from t2t_vit.cli.main import main
from t2t_vit.errors import printable
from t2t_vit.notes import tell
from t2t_vit.training.journal import Console

HOSTILE = "a\x1b[2J\r\nb\x9b31m\u2028c\u202ed\udcff"
HARMLESS = r"a\x1b[2J\r\nb\x9b31m\u2028c\u202ed\udcff"


def test_control_characters_are_written_out_and_nothing_else_changes() -> None:
    assert printable(HOSTILE) == HARMLESS == printable(HARMLESS)
    for text in ("Ankle boot, 外套, צבע", "👩\u200d💻", "ä a\u0308", "C:\\new"):
        assert printable(text) == text


def test_every_way_to_the_terminal_and_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(HOSTILE)
    console = Console(tmp_path / "train.log", live=False)
    console.line(HOSTILE)
    console.close()
    assert main(["infer", HOSTILE, "--checkpoint", HOSTILE]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [HARMLESS] * 2 and len(lines) == 3
    assert r"a\x1b[2J" in lines[2] and printable(lines[2]) == lines[2]
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == f"{HARMLESS}\n"
