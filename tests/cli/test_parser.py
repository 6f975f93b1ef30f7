"""The parser: made from the schema, and rid of the habits of jsonargparse that would surprise."""

import pytest

from t2t_vit.cli.commands import COMMANDS, Command
from t2t_vit.cli.parser import Parser, parser_of
from t2t_vit.config import KEYS, Config
from t2t_vit.errors import UserError


@pytest.fixture
def parser() -> Parser:
    return parser_of(COMMANDS["train"])


@pytest.mark.parametrize("command", COMMANDS.values())
def test_the_schema_is_the_dataclass(command: Command) -> None:
    defaults = vars(parser_of(command).get_defaults())
    assert Config(**{name: defaults[name] for name in KEYS}) == Config()


def test_only_what_is_said_is_read(parser: Parser) -> None:
    assert parser.read_line([]) == {}
    assert parser.read_line(["--seed", "1", "a.yaml", "--print_config"]) == {
        "seed": 1,
        "word": "a.yaml",
        "print_config": "",
    }


@pytest.mark.parametrize("prefix", ["", "T2T_VIT_", "T2T_VIT TRAIN_", "T2T_VIT_TRAIN_"])
def test_no_environment_variable_is_an_option(parser: Parser, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv(f"{prefix}EPOCHS", "3")
    assert Parser(COMMANDS["train"]).read_line([]) == parser.read_line([]) == {}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--epochs.x", "3"], "unknown option '--epochs.x'; did you mean '--epochs'?"),
        (["--epochs+", "3"], "unknown option '--epochs+'; did you mean '--epochs'?"),
        (["--print_shtab", "bash"], "unknown option '--print_shtab'; did you mean '--"),
        (["--print_completion", "bash"], "unknown option '--print_completion'; did you mean '--print_"),
        (["--pretraind=my file.ckpt"], "unknown option '--pretraind'; did you mean '--pretrained'?"),
        (["-e", "3", "x", "y"], "unknown option '-e'; did you mean '--"),
        (["a b", "--seed", "1", "c d", "e"], "unexpected word 'c d' on the line of train"),
        (["a", "--seed", "1", "epochs=3"], "unexpected word 'epochs=3' on the line of train; write --epochs=3"),
        (["--base_lr", "-1e-3"], "--base_lr takes a number above 0; not '-1e-3'"),
        (["--epochs", "1:30"], "--epochs takes a whole number of at least 1; not '1:30'"),
        (["--data_url", "-x"], "--data_url needs a value: a path"),
    ],
)
def test_habits_are_tamed(parser: Parser, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parser.read_line(words)
    assert str(caught.value).startswith(sentence)


def test_what_only_looks_like_an_option_is_a_value(parser: Parser) -> None:
    assert parser.read_line(["--data_url=--x y", "--resume", "- z", "--", "--seed"]) == {
        "data_url": "--x y",
        "resume": "- z",
        "word": "--seed",
    }


def test_a_list_ends_where_no_number_follows(parser: Parser) -> None:
    read = parser.read_line(["--image_size", "96", "160", "photos", "--mean", "[", ".5", "]", "--seed", "1"])
    assert read == {"image_size": (96, 160), "word": "photos", "mean": (0.5,), "seed": 1}
