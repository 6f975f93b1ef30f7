"""No text of a stranger's reaches the terminal or the log as it is: names, contents of files, errors of runtimes."""

import io
import json
from dataclasses import replace
from pathlib import Path
from unicodedata import category

import pytest
import torch
from PIL import Image
from rich.console import Console as RichConsole
from safetensors.torch import save_file

from exported_graphs import OF_A_COMMAND, graph_file, means, node
from t2t_vit.cli.main import main
from t2t_vit.notes import print_line, tell
from t2t_vit.settings.file import read_config, to_yaml
from t2t_vit.settings.schema import Config
from t2t_vit.tables import print_table, table_lines
from t2t_vit.training.journal import Console, LiveBar
from t2t_vit.training.state import State

EVIL = "a\x1b[2J\x1b]0;t\x07\r\x9b31m\u2028\u202e\u2066[red]:smile:[/]\x7f\udcff"
OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def assert_harmless(text: str) -> None:
    """Lines of printable text, in which markup and names of pictures stand as they were written."""
    bad = [c for c in text if c != "\n" and (c in OVERRIDES or category(c) in ("Cc", "Zl", "Zp", "Cs"))]
    assert text and not bad, (bad, text)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    tell(EVIL)
    print_line(EVIL)
    for text in capsys.readouterr():
        assert_harmless(text)
        assert "[red]:smile:[/]" in text and text.count("\n") == 1


@pytest.mark.parametrize("is_terminal", [True, False])
def test_tables(is_terminal: bool) -> None:
    file = Terminal() if is_terminal else io.StringIO()
    print_table(("one", EVIL), [["1", EVIL], [EVIL, "x"]], file=file, title=EVIL)
    text = file.getvalue()
    for code in ("\x1b[2m", "\x1b[0m"):  # rich's own, for the heads
        text = text.replace(code, "")
    assert_harmless(text)
    assert "[red]:smile:[/]" in text.replace("\n", "").replace(" ", "")
    assert_harmless("\n".join(table_lines(("a",), [[EVIL]])))


def test_the_log_and_the_screen_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(tmp_path / "train.log", live=False)
    console.line(EVIL)
    console.detail(EVIL)
    console.close()
    assert_harmless((tmp_path / "train.log").read_text(encoding="utf-8"))
    assert_harmless(capsys.readouterr().err)


def test_lines_above_a_bar(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(tmp_path / "train.log", live=True)
    bar = LiveBar(State(10, 2, 20), console, terminal=RichConsole(file=screen, width=400))
    console.line(EVIL)
    bar.close()
    console.close()
    assert_harmless(screen.getvalue())
    assert "[red]:smile:[/]" in screen.getvalue()


def test_a_configuration_that_is_printed_is_read_back_as_it_was(tmp_path: Path) -> None:
    for value in (EVIL.replace("\udcff", ""), "\u202eplain", "ümläut 写真"):
        text = to_yaml(Config(data_url=value))
        assert_harmless(text)
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        assert read_config(tmp_path / "c.yaml")["data_url"] == value
    assert "写真" in text


@pytest.mark.parametrize(
    "words",
    [
        [EVIL],
        ["infer", EVIL, "--checkpoint", "x"],
        ["infer", "x", "--checkpoint", EVIL],
        ["infer", "x", "--checkpoint", "y", "--output", f"{EVIL}/z"],
        ["infer", f"--{EVIL}", "x"],
        ["train", "--epochs", EVIL],
        ["train", "--arch", EVIL],
        ["train", EVIL],
        ["train", "--data_url", EVIL],
        ["train", "--resume", EVIL],
        ["eval", "--pretrained", EVIL],
        ["weights", "show", EVIL],
        ["weights", EVIL],
        ["report", EVIL],
        ["show", EVIL, "--checkpoint", "x"],
        ["models", EVIL],
        ["export", "--pretrained", EVIL, "--file_format", EVIL],
        ["bench", EVIL],
    ],
)
def test_mistakes(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert_harmless(err)


def test_weights_of_a_folder_whose_names_are_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({EVIL[:-1]: torch.zeros(2)}, tmp_path / "model.safetensors")
    config = {"arch": EVIL, "label_names": [EVIL] * 2, EVIL: EVIL, "pretrained_cfg": {EVIL: 1}}
    for found in (config, {"architecture": EVIL}, {EVIL: EVIL}, {}):
        (tmp_path / "config.json").write_text(json.dumps(found))
        main(["weights", "show", str(tmp_path)])
        out, err = capsys.readouterr()
        assert_harmless(out + err)


def test_predictions_of_a_file_whose_names_are_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 30)).save(tmp_path / f"{EVIL.replace('/', '')}.png")
    (tmp_path / f"{EVIL.replace('/', '')}.jpg").write_bytes(b"no image")
    names = (EVIL, f"{EVIL}2", f"{EVIL}3")
    evil = replace(OF_A_COMMAND, classes=names)
    network = str(graph_file(tmp_path / "x.onnx", [means()], metadata=evil))
    for more in ([], ["--top_k", "2"]):
        assert main(["infer", str(tmp_path), "--checkpoint", network, *more]) == 1
        out, err = capsys.readouterr()
        assert_harmless(out)
        assert_harmless(err)
        assert out.count("\n") == 1
    unknown = str(graph_file(tmp_path / "z.onnx", [means()], metadata=replace(evil, arch=EVIL[:-1])))
    for words in (["--checkpoint", unknown], ["--checkpoint", unknown, "--arch", "t2t_vit_7"]):
        assert main(["infer", str(tmp_path), *words]) == 2
        assert_harmless(capsys.readouterr().err)
    failing = graph_file(tmp_path / "y.onnx", [node("Identity", "images", EVIL[:4]), means(EVIL[:4], "other")])
    assert main(["infer", str(tmp_path), "--checkpoint", str(failing)]) == 2
    assert_harmless(capsys.readouterr().err)
