"""Tables as people and programs read them."""

import io
import re

import pytest

from t2t_vit.tables import print_table, table_lines

HEADS = ("name", "images/s", "file")
ROWS = [["onnx", "1,234.5", "a.onnx"], ["torch", "7.0", "a much longer name.pt2"]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(output: io.StringIO, *args: object, **options: object) -> list[str]:
    print_table(*args, file=output, **options)  # type: ignore[arg-type]
    return output.getvalue().splitlines()


def test_columns_are_aligned() -> None:
    assert table_lines(HEADS, ROWS, left=(0, -1)) == [
        "name   images/s  file",
        "onnx    1,234.5  a.onnx",
        "torch       7.0  a much longer name.pt2",
    ]
    assert table_lines(HEADS, ROWS, left=()) == [
        " name  images/s                    file",
        " onnx   1,234.5                  a.onnx",
        "torch       7.0  a much longer name.pt2",
    ]


def test_without_heads_and_without_rows() -> None:
    assert table_lines((), ROWS, left=(0, 1, 2)) == [
        "onnx   1,234.5  a.onnx",
        "torch  7.0      a much longer name.pt2",
    ]
    assert table_lines(HEADS, []) == ["name  images/s  file"]
    assert table_lines((), []) == []


def test_in_a_pipe_nothing_is_cut_or_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    long = "x" * 3000
    assert printed(io.StringIO(), HEADS, [["a", "1", long]], title="speed", left=(0, 2)) == [
        "speed",
        "name  images/s  file",
        f"a            1  {long}",
    ]


def test_on_a_terminal_cells_are_broken_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    drawn = printed(Terminal(), ("a", "b"), [["x" * 40, "y" * 10]], title="[t] :cat:")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in drawn]
    assert lines[0] == "[t] :cat:"
    assert all(len(line) <= 30 for line in lines)
    assert sum(line.count("x") for line in lines) == 40
    assert sum(line.count("y") for line in lines) == 10
    assert not any("…" in line for line in lines)


def test_cells_are_text_and_one_line() -> None:
    assert table_lines((), [["[bold]x[/bold] :smile:\n\x1b[31m\udcff", "1"]]) == ["[bold]x[/bold] :smile:??[31m?  1"]


def test_wide_letters_take_two_columns() -> None:
    assert table_lines((), [["外套", "1"], ["abcd", "22"]]) == ["外套   1", "abcd  22"]


def test_standard_output_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [["c", "d"]])
    assert capsys.readouterr().out == "a  b\nc  d\n"
