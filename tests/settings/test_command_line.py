"""The command line: one grammar for all commands, one sentence for a mistake, no habit of argparse that surprises."""

from pathlib import Path
from typing import Any

import pytest

from t2t_vit.errors import UserError
from t2t_vit.settings.command_line import parse, read_words
from t2t_vit.settings.commands import COMMANDS
from t2t_vit.settings.schema import KEYS, Config


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
        written = KEYS[name].written(default)
        shown = [str(item) for item in written] if isinstance(written, tuple) else [str(written)]
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
        (["epochs=3"], "unexpected word 'epochs=3' on the command line of train; write --epochs=3"),
        (["a.yaml", "b.yaml"], "unexpected word 'b.yaml' on the command line of train; options are --KEY VALUE"),
        (["a.yaml", "--config", "b.yaml"], "train takes one configuration; not a.yaml and b.yaml"),
    ],
)
def test_mistakes_on_the_line(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse("train", words)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("words", [["{}"], ["--config", "{}"], ["--config_path={}"], ["--", "{}"]])
def test_a_configuration_is_named_in_any_way(file: Path, words: list[str]) -> None:
    file.write_text("epochs: 3\n", encoding="utf-8")
    options = parse("train", [word.format(file) for word in words])
    assert (options.path, dict(options.file)) == (file, {"epochs": 3})


@pytest.mark.parametrize("name", ["t2t_vit_19", "t2t_vit_19.yaml"])
def test_a_shipped_configuration_is_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t2t_vit_19").mkdir()  # a folder of that name is no configuration
    assert parse("train", ["--config", name]).file["num_classes"] == 1000


def test_a_file_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t2t_vit_19.yaml").write_text("epochs: 7\n", encoding="utf-8")
    assert parse("train", ["t2t_vit_19.yaml"]).file == {"epochs": 7}


def test_a_missing_configuration_suggests_a_shipped_one() -> None:
    with pytest.raises(UserError, match=r"nowhere/t2t_vit_18.yaml does not exist; .* is called t2t_vit_1"):
        parse("train", ["nowhere/t2t_vit_18.yaml"])


def test_infer_has_data_and_its_own_options() -> None:
    options = parse("infer", ["--checkpoint", "a.ckpt", "photos", "--output", "o.json", "--arch=t2t_vit_7"])
    assert (options.data, options.checkpoint, options.extras) == ("photos", "a.ckpt", {"output": "o.json"})
    assert options.line["arch"] == "t2t_vit_7"
    assert parse("infer", ["--", "-odd.png"]).data == "-odd.png"
    with pytest.raises(UserError, match="infer needs something to work on: an image file or a folder of images"):
        parse("infer", ["--checkpoint", "a.ckpt"])


@pytest.mark.parametrize(
    ("line", "words", "extras", "keys"),
    [
        (["a", "--checkpoint", "f", "b", "--recursive"], ("a", "b"), {"recursive": True}, {"pretrained": "f"}),
        (["--top_k", "3", "--", "--a", "-"], ("--a", "-"), {"top_k": 3}, {}),
        (["-", "-0"], ("-",), {"null": True}, {}),
        (["--list", "-", "--null"], (), {"list": "-", "null": True}, {}),
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
    with pytest.raises(UserError, match="infer needs a checkpoint; give one with --checkpoint FILE"):
        parse("infer", ["x.png"]).required_checkpoint()
    with pytest.raises(UserError, match="eval needs a checkpoint; give one with --pretrained FILE"):
        parse("eval", ["--pretrained", ""]).required_checkpoint()
    file.write_text("pretrained: b.ckpt\n", encoding="utf-8")
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
    assert ("(default:" in text) == (command != "doctor")  # which has nothing but a flag


def read(*words: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    return read_words(COMMANDS["train"], words)


def test_only_what_is_said_is_read() -> None:
    assert read() == ({}, ())
    assert read("--seed", "1", "a.yaml", "--print_config") == ({"seed": 1, "print_config": True}, ("a.yaml",))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--epochs.x", "3"], "unknown option '--epochs.x'; did you mean '--epochs'?"),
        (["--epochs+", "3"], "unknown option '--epochs+'; did you mean '--epochs'?"),
        (["--help=all"], "unknown option '--help'"),
        (["--pretraind=my file.ckpt"], "unknown option '--pretraind'; did you mean '--pretrained'?"),
        (["-e", "3", "x", "y"], "unknown option '-e'; did you mean '--"),
        (["-e=3"], "unknown option '-e'; did you mean '--"),
        (["--no option"], "unknown option '--no option'"),
        (["a b", "--seed", "1", "c d", "e"], "unexpected word 'c d' on the command line of train"),
        (["a", "--seed", "1", "epochs=3"], "unexpected word 'epochs=3' on the command line of train; write --epochs=3"),
        (["--base_lr", "-1e-3"], "--base_lr takes a number above 0; not '-1e-3'"),
        (["--epochs", "1:30"], "--epochs takes a whole number of at least 1; not '1:30'"),
        (["--epochs", "9" * 30], "--epochs takes a whole number of at least 1; not '9999"),
        (["--data_url", "-x"], "--data_url needs a value: a path"),
        (["--data_url=--"], "--data_url needs a value: a path"),
        (["--epochs", "--", "3"], "--epochs needs a value: a whole number of at least 1"),
    ],
)
def test_habits_are_tamed(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read(*words)
    assert str(caught.value).startswith(sentence)


def test_what_only_looks_like_an_option_is_a_value() -> None:
    said, words = read("--data_url=--x y", "--resume", "- z", "--", "--seed")
    assert (said, words) == ({"data_url": "--x y", "resume": "- z"}, ("--seed",))


def test_a_list_ends_where_no_number_follows() -> None:
    said, words = read("--image_size", "96", "160", "photos", "--mean", "[", ".5", "]", "--seed", "1")
    assert (said, words) == ({"image_size": (96, 160), "mean": (0.5,), "seed": 1}, ("photos",))


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("weights show a.pth", {}),
        ("weights convert a.pth b.ckpt --format torch --which ema", {"format": "torch", "which": "ema"}),
        ("report runs/logs/x --output y.html", {"output": "y.html"}),
    ],
)
def test_commands_without_keys(line: str, options: dict[str, str]) -> None:
    command, *words = line.split()
    said = parse(command, words)
    assert (said.line, said.extras) == ({}, options)
    assert said.words == tuple(word for word in words if not word.startswith("--") and word not in options.values())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("weights shaw x", "weights takes show or convert; not 'shaw'"),
        ("weights show", "weights show needs FILE: t2t-vit weights --help"),
        ("weights convert", "weights convert needs FILE and NEW_FILE: "),
        ("weights convert a", "weights convert needs NEW_FILE: "),
        ("weights show a b", "unexpected word 'b' on the command line of weights"),
        ("weights --which ema", "weights needs something to work on: show or convert"),
        ("weights show a --which best", "--which takes one of auto, ema, raw; not 'best'"),
        ("weights show a --epochs 3", "unknown option '--epochs'; did you mean '--which'?"),
        ("report --output x", "report needs something to work on: RUN_FOLDER, the logs folder of a run"),
        ("report a b", "unexpected word 'b' on the command line of report"),
        ("bench modle --print_config", "bench takes model, step or data; not 'modle'"),
        ("models x", "unexpected word 'x' on the command line of models"),
        ("export --precision fp8", "--precision takes one of fp32, fp16, int8; not 'fp8'; did you mean 'fp32'?"),
        ("bench model --rounds 0", "--rounds takes a whole number of at least 1 and at most 100000; not '0'"),
        ("infer a --shard half", "--shard takes I/N, as 1/4 for the first of every four images; not 'half'"),
        ("infer a --workers", "--workers needs a value: a whole number of at least 0"),
    ],
)
def test_mistakes_on_the_lines_of_other_commands(line: str, sentence: str) -> None:
    command, *words = line.split()
    with pytest.raises(UserError) as caught:
        parse(command, words)
    assert str(caught.value).startswith(sentence)


def test_an_option_that_is_left_out_has_its_default() -> None:
    assert parse("export", []).extra("precision") == "fp32"
    assert parse("export", ["--calibration", "7"]).extra("calibration") == 7
    assert parse("bench", ["model"]).extra("rounds") == 10
    assert parse("infer", ["a"]).extra("recursive") is False
