"""Other tools' words are errors that name ours, by a table that is asked before the distance of letters."""

import re
import shlex
from pathlib import Path

import pytest

from t2t_vit.cli.main import main
from t2t_vit.errors import UserError
from t2t_vit.settings.command_line import parse, read_words
from t2t_vit.settings.commands import COMMANDS
from t2t_vit.settings.names import IMAGES, OTHER_COMMANDS, OTHER_VALUES, OTHER_WORDS
from t2t_vit.settings.schema import KEYS
from t2t_vit.settings.values import OneOf


def test_every_word_of_the_table_leads_to_an_option_that_there_is() -> None:
    options = {name for command in COMMANDS.values() for name in command.options} | {IMAGES}
    for word, meant in OTHER_WORDS.items():
        assert meant and set(meant) <= options, word
        assert word not in KEYS, word
    assert set(OTHER_COMMANDS.values()) <= set(COMMANDS)
    assert not set(OTHER_COMMANDS) & set(COMMANDS)


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.keys])
def test_a_word_of_the_table_is_an_error_of_every_command_that_names_an_option_it_has(command: str) -> None:
    called = COMMANDS[command]
    for word in OTHER_WORDS.keys() - called.options.keys():
        with pytest.raises(UserError, match=f"unknown option '--{word}'") as error:
            read_words(called, [f"--{word}", "3"])
        sentence = str(error.value)
        if "did you mean" in sentence:
            assert sentence.split("'--")[2].removesuffix("'?") in called.options
        else:
            assert called.positional == "data" and called.usage.splitlines()[0] in sentence


@pytest.mark.parametrize(
    ("command", "word", "ours"),
    [
        ("train", "--lr", "--base_lr"),
        ("train", "--lr0", "--base_lr"),
        ("train", "--imgsz", "--image_size"),
        ("train", "--img-size", "--image_size"),
        ("train", "--batch", "--batch_size"),
        ("train", "--data", "--data_url"),
        ("train", "--source", "--data_url"),
        ("train", "--weights", "--pretrained"),
        ("infer", "--weights", "--checkpoint"),
        ("eval", "--weights", "--pretrained"),
        ("train", "--model", "--arch"),
        ("train", "--project", "--ckpt_root_dir"),
        ("train", "--gradient_accumulation_steps", "--accumulation_step"),
        ("train", "--clip-grad", "--clip_grad_norm"),
        ("infer", "--topk", "--top_k"),
        ("export", "--half", "--precision"),
        ("train", "--half", "--amp_level"),
    ],
)
def test_options_of_other_tools(command: str, word: str, ours: str) -> None:
    with pytest.raises(UserError, match=f"unknown option '{word}'; did you mean '{ours}'"):
        parse(command, ["picture.png"] * (command == "infer") + [word, "3"])


@pytest.mark.parametrize(
    ("command", "words", "ours"),
    [
        ("eval", ["--model", "best.pt"], "--pretrained"),
        ("infer", ["--model=runs/last.ckpt"], "--checkpoint"),
        ("train", ["--model", "yolov8n-cls.pt"], "--pretrained"),
        ("train", ["--model", "resnet50"], "--arch"),
    ],
)
def test_a_model_is_a_network_or_its_weights(command: str, words: list[str], ours: str) -> None:
    with pytest.raises(UserError, match=f"unknown option '--model'; did you mean '{ours}'"):
        parse(command, words)


@pytest.mark.parametrize("word", ["--source", "--data", "--input"])
def test_what_infer_works_on_has_no_option(word: str) -> None:
    with pytest.raises(
        UserError, match=rf"unknown option '{word}'; write images and folders without an option: t2t-vit infer"
    ):
        parse("infer", [word, "photos", "--checkpoint", "a.ckpt"])


@pytest.mark.parametrize(
    ("word", "ours"),
    [("imgsz=64", "--image_size=64"), ("data=photos", "--data_url=photos"), ("epochs=3", "--epochs=3")],
)
def test_words_without_dashes(word: str, ours: str) -> None:
    with pytest.raises(UserError, match=f"unexpected word '{word}' on the command line of train; write {ours}"):
        parse("train", [word])


@pytest.mark.parametrize(
    ("word", "ours"), [("predict", "infer"), ("val", "eval"), ("detect", "infer"), ("fit", "train"), ("test", "eval")]
)
def test_commands_of_other_tools(word: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "photos"]) == 2
    assert f"unknown command '{word}'; did you mean '{ours}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "word", "ours"),
    [
        ("best_by", "accuracy", "top1"),
        ("best_by", "Val-Loss", "loss"),
        ("best_by", "f1", "macro_f1"),
        ("best_by", "balanced", "balanced_accuracy"),
        ("class_balance", "class_weights", "weights"),
        ("lr_scheduler", "cosine", "cosine_lr"),
        ("bad_images", "ignore", "skip"),
        ("device_target", "cuda", "GPU"),
        ("dataset", "ImageFolder", "ImageNet"),
    ],
)
def test_values_of_other_tools(key: str, word: str, ours: str) -> None:
    with pytest.raises(UserError, match=f"not '{word}'; did you mean '{ours}'"):
        parse("train", [f"--{key}", word])
    parse("train", [f"--{key}", ours])


def test_every_value_of_the_table_is_one_of_a_key() -> None:
    taken = {value for key in KEYS.values() if isinstance(key.allowed, OneOf) for value in key.allowed.values}
    assert set(OTHER_VALUES.values()) <= taken
    assert not set(OTHER_VALUES) & taken


@pytest.mark.parametrize("words", [["photos"], ["scratch", "photos"], ["scratch", "./my photos"]])
def test_a_folder_without_an_option_is_named_with_the_one_that_takes_it(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("my photos").mkdir()
    with pytest.raises(UserError, match="give images with --data_url") as caught:
        parse("train", words)
    advised = shlex.split(str(caught.value).partition("t2t-vit train ")[2].removesuffix(")"))
    options = parse("train", advised)
    assert options.line == {"data_url": words[-1]}
    assert options.path is not None and options.path.stem == "scratch"


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        (
            "t2t_vit_4",
            "t2t_vit_4 is a network; write --arch t2t_vit_4 together with a configuration, such as scratch",
        ),
        ("best.ckpt", "give weights with --pretrained best.ckpt"),
        ("my weights.pth", "give weights with --pretrained 'my weights.pth'"),
        ("finetun", "the nearest shipped one is called finetune"),
        ("t2t-vit-14", "the nearest shipped one is called t2t_vit_14"),
        ("imagenet", "the shipped ones are finetune, finetune_384, quickstart, scratch, "),
    ],
)
def test_a_word_that_is_no_configuration(word: str, instead: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"configuration {word} does not exist; {instead}")):
        parse("train", [word])
