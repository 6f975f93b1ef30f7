"""The command line and the configuration file: strict, one grammar, one sentence for a mistake."""

from pathlib import Path
from typing import Any

import pytest

from t2t_vit.cli.commands import COMMANDS
from t2t_vit.cli.options import parse
from t2t_vit.config import KEYS, Config
from t2t_vit.errors import UserError


def of_line(*words: str, command: str = "train") -> dict[str, Any]:
    return dict(parse(command, words).line)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a recipe.yaml"


@pytest.mark.parametrize("command", ["train", "eval", "infer", "export", "quickstart"])
def test_every_key_is_an_option_of_every_command(command: str) -> None:
    words = ["picture.png"] if command == "infer" else []
    for name in KEYS:
        default = getattr(Config(), name)
        shown = [str(item) for item in default] if isinstance(default, tuple) else [str(default)]
        assert of_line(*words, f"--{name}", *shown, command=command) == {name: default}
        assert of_line(*words, f"--{name}={','.join(shown)}", command=command) == {name: default}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--epochs", "3", "--epochs", "4"], {"epochs": 4}),
        (["--train_num_samples", "-1"], {"train_num_samples": -1}),
        (["--auto_augment", ""], {"auto_augment": ""}),
        (["--auto_augment=", "--epochs", "3"], {"auto_augment": "", "epochs": 3}),
        (["--data_url=a=b c"], {"data_url": "a=b c"}),
        (["--beta", "0.9", "0.95", "--epochs", "3"], {"beta": (0.9, 0.95), "epochs": 3}),
        (["--beta", "[0.9,", "0.95]"], {"beta": (0.9, 0.95)}),
        (["--beta=[0.9,", "0.95]"], {"beta": (0.9, 0.95)}),
        (["--beta", "[", "0.9", ",", "0.95", "]"], {"beta": (0.9, 0.95)}),
        (["--mean", ".5", ".4", ".3"], {"mean": (0.5, 0.4, 0.3)}),
        (["--image_size", "96", "160"], {"image_size": (96, 160)}),
        (["--image_size", "224"], {"image_size": 224}),
        (["--base_lr", "5e-4"], {"base_lr": 5e-4}),
    ],
)
def test_lines_that_are_understood(words: list[str], values: dict[str, Any]) -> None:
    assert of_line(*words) == values


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--epoch", "3"], "unknown option '--epoch'; did you mean '--epochs'?"),
        (["--epo=3"], "unknown option '--epo'; did you mean '--epochs'?"),
        (["-epochs", "3"], "unknown option '-epochs'; did you mean '--epochs'?"),
        (["--batch-size", "3"], "unknown option '--batch-size'; did you mean '--batch_size'?"),
        (["--lr", "3"], "unknown option '--lr'; did you mean '--base_lr'?"),
        (["--checkpoint", "a"], "unknown option '--checkpoint'; did you mean '--pretrained'?"),
        (["--epochs"], "--epochs needs a value: a whole number of at least 1"),
        (["--epochs", "--seed", "3"], "--epochs needs a value: a whole number of at least 1"),
        (["--with_ema"], "--with_ema needs a value: True or False"),
        (["--config"], "--config needs a value: a path"),
        (["--config", ""], "the configuration has an empty name; give a YAML file or the name of a shipped one"),
        (["--epochs", "abc"], "--epochs takes a whole number of at least 1; not 'abc'"),
        (["--epochs", "1.5"], "--epochs takes a whole number of at least 1; not '1.5'"),
        (["--base_lr", "1e999"], "--base_lr takes a number above 0; not '1e999'"),
        (["--image_size", "4"], "--image_size takes one or two whole numbers of at least 8 and at most 8192 "),
        (["--beta", "0.9"], "--beta takes two numbers of at least 0 and below 1; not '0.9'"),
        (["--print_config=yes"], "--print_config takes no value; not 'yes'"),
        (["epochs=3"], "unexpected word 'epochs=3' on the line of train; write --epochs=3"),
        (["a.yaml", "b.yaml"], "unexpected word 'b.yaml' on the line of train; options are --KEY VALUE"),
        (["a.yaml", "--config", "b.yaml"], "train takes one configuration; not a.yaml and b.yaml"),
    ],
)
def test_mistakes_on_the_line(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse("train", words)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("words", [["{}"], ["--config", "{}"], ["--config_path={}"], ["--", "{}"]])
def test_a_configuration_is_named_in_any_way(file: Path, words: list[str]) -> None:
    file.write_text("epochs: 3\n")
    options = parse("train", [word.format(file) for word in words])
    assert (options.path, dict(options.file)) == (file, {"epochs": 3})


@pytest.mark.parametrize("name", ["t2t_vit_19", "t2t_vit_19.yaml"])
def test_a_shipped_configuration_is_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t2t_vit_19").mkdir()  # a folder of that name is no configuration
    assert parse("train", ["--config", name]).file["num_classes"] == 1000


def test_a_file_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t2t_vit_19.yaml").write_text("epochs: 7\n")
    assert parse("train", ["t2t_vit_19.yaml"]).file == {"epochs": 7}


def test_a_missing_configuration_suggests_a_shipped_one() -> None:
    with pytest.raises(UserError, match=r"nowhere/t2t_vit_18.yaml does not exist; .* is called t2t_vit_1"):
        parse("train", ["nowhere/t2t_vit_18.yaml"])


def test_infer_has_data_and_its_own_options() -> None:
    options = parse("infer", ["--checkpoint", "a.ckpt", "photos", "--output", "o.json", "--arch=t2t_vit_7"])
    assert (options.data, options.checkpoint, options.extras) == ("photos", "a.ckpt", {"output": "o.json"})
    assert options.line["arch"] == "t2t_vit_7"
    assert parse("infer", ["--", "-odd.png"]).data == "-odd.png"
    with pytest.raises(UserError, match="infer needs what to work on: an image file or a folder of them"):
        parse("infer", ["--checkpoint", "a.ckpt"])


@pytest.mark.parametrize(
    ("line", "words", "extras", "keys"),
    [
        (["a", "--checkpoint", "f", "b", "--recursive", "c"], ("a", "b", "c"), {"recursive": ""}, {"pretrained": "f"}),
        (["--top_k", "3", "--", "--a", "-"], ("--a", "-"), {"top_k": "3"}, {}),
        (["-", "-0"], ("-",), {"null": ""}, {}),
        (["--list", "-", "--null"], (), {"list": "-", "null": ""}, {}),
        (["--mean", ".5", ".4", ".3", "a"], ("a",), {}, {"mean": (0.5, 0.4, 0.3)}),
        (["a", "--workers", "0"], ("a",), {}, {"num_parallel_workers": 0}),
        (["--resume", "a"], ("a",), {}, {"resume": "auto"}),
        (["a", "--resume", "auto", "--workers=2"], ("a",), {}, {"resume": "auto", "num_parallel_workers": 2}),
        (["a", "--resume"], ("a",), {}, {"resume": "auto"}),
    ],
)  # fmt: skip
def test_infer_takes_words_on_all_sides(
    line: list[str], words: tuple[str, ...], extras: dict[str, str], keys: dict[str, object]
) -> None:
    options = parse("infer", line)
    assert (options.words, options.extras, options.line) == (words, extras, keys)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["a", "-x"], "unknown option '-x'"),
        (["a", "--list"], "--list needs a value"),
        (["a", "--recursive=yes"], "--recursive takes no value"),
        (["a", "--workers", "many"], "num_parallel_workers|workers"),
        (["a", "--top-k", "3"], "did you mean '--top_k'"),
    ],
)
def test_mistakes_on_the_line_of_infer(line: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse("infer", line)


def test_a_checkpoint_is_required_by_name(file: Path) -> None:
    with pytest.raises(UserError, match="infer needs a checkpoint; name one with --checkpoint FILE"):
        parse("infer", ["x.png"]).required_checkpoint()
    with pytest.raises(UserError, match="eval needs a checkpoint; name one with --pretrained FILE"):
        parse("eval", ["--pretrained", ""]).required_checkpoint()
    file.write_text("pretrained: b.ckpt\n")
    assert parse("eval", [str(file)]).required_checkpoint() == "b.ckpt"
    assert parse("eval", [str(file), "--pretrained", "c.ckpt"]).required_checkpoint() == "c.ckpt"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("width", ["60", "110"])
def test_help_lists_every_key_that_the_command_uses(
    command: str, width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    with pytest.raises(SystemExit) as caught:
        parse(command, ["--nonsense", "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert {name for name in KEYS if f"\n  --{name} " in text} == COMMANDS[command].uses
    assert max(map(len, text.splitlines())) <= int(width)
    assert "(default:" in text
