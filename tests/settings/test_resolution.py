"""Who wins: the line, the checkpoint, the file, the defaults."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from t2t_vit.errors import UserError
from t2t_vit.settings.command_line import Options, parse
from t2t_vit.settings.resolution import CHOICE, FREE, REFUSED, continued, resolve
from t2t_vit.settings.schema import KEYS, Config

CHECKPOINT = Config(
    arch="t2t_vit_7",
    num_classes=10,
    image_size=28,
    in_chans=1,
    mean=(0.3,),
    std=(0.4,),
    crop_pct=1.0,
    dataset="FashionMNIST",
    val_dir="held_out",
    epochs=5,
    batch_size=7,
).to_dict()


def said(command: str, words: Sequence[str], tmp_path: Path, file: str = "") -> Options:
    path = tmp_path / "recipe.yaml"
    path.write_text(file or "seed: 1\n")
    command, *subject = command.split()
    data = ["x.png"] if command == "infer" else subject
    return parse(command, [*data, *words, "--config", str(path)])


@pytest.mark.parametrize("command", ["eval", "infer", "export"])
def test_a_model_and_its_preprocessing_come_from_the_checkpoint(command: str, tmp_path: Path) -> None:
    options = said(command, ["--pretrained", "a.ckpt"], tmp_path)
    config, notes = resolve(options, CHECKPOINT)
    assert (config.arch, config.num_classes, config.image_size, config.in_chans) == ("t2t_vit_7", 10, 28, 1)
    assert (config.mean, config.std, config.crop_pct) == ((0.3,), (0.4,), 1.0)
    assert (config.epochs, config.batch_size, config.seed) == (300, 100, 1)  # the rest of that run stays there
    assert config.val_dir == ("validation_preprocess" if command == "infer" else "held_out")
    assert [note for note in notes if "taken from" not in note] == []


def test_the_line_wins_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 3\nseed: 4\n")
    for words in (["--epochs", "9", "--config", str(path)], [str(path), "--epochs", "9"]):
        config, _ = resolve(parse("train", words))
        assert (config.epochs, config.seed, config.batch_size) == (9, 4, 100)


LONG = "epochs: 300\nwarmup_length: 10\ncooldown_epochs: 10\n"


def scaled(
    tmp_path: Path, *words: str, file: str = LONG, command: str = "train"
) -> tuple[tuple[float, ...], list[str]]:
    config, notes = resolve(said(command, words, tmp_path, file))
    return (config.epochs, config.warmup_length, config.cooldown_epochs), [n for n in notes if n.startswith("with ")]


def test_warmup_and_cooldown_follow_the_epochs_of_the_command_line(tmp_path: Path) -> None:
    assert scaled(tmp_path, "--epochs", "30") == (
        (30, 1.0, 1),
        ["with --epochs 30 in place of 300: warmup_length 10 -> 1, cooldown_epochs 10 -> 1"],
    )
    assert scaled(tmp_path, "--epochs", "1")[0] == (1, 0.03333, 0)
    assert scaled(tmp_path, "--epochs", "600")[0] == (600, 20.0, 20)


def test_what_is_given_is_not_scaled(tmp_path: Path) -> None:
    found, told = scaled(tmp_path, "--epochs", "30", "--warmup_length", "2")
    assert found == (30, 2.0, 1)
    assert told == ["with --epochs 30 in place of 300: cooldown_epochs 10 -> 1"]
    assert scaled(tmp_path, "--epochs", "30", "--warmup_length", "2", "--cooldown_epochs", "3") == ((30, 2.0, 3), [])
    assert scaled(tmp_path, "--cooldown_epochs", "3") == ((300, 10.0, 3), [])
    assert scaled(tmp_path) == ((300, 10.0, 10), [])
    assert scaled(tmp_path, "--epochs", "300") == ((300, 10.0, 10), [])


def test_a_file_without_epochs_has_the_default_ones(tmp_path: Path) -> None:
    assert scaled(tmp_path, "--epochs", "30", file="seed: 1\n")[0] == (30, 0.2, 0)
    config, notes = resolve(parse("train", ["--epochs", "30"]))
    assert (config.warmup_length, notes) == (2.0, [])


def test_only_a_training_has_a_schedule_to_scale(tmp_path: Path) -> None:
    assert scaled(tmp_path, "--epochs", "30", command="bench step") == ((30, 10.0, 10), [])


def test_a_files_key_that_differs_is_named_in_one_line(tmp_path: Path) -> None:
    file = "arch: t2t_vit_19\nnum_classes: 1000\nmean: [0.3]\n"
    config, notes = resolve(said("eval", ["--pretrained", "a.ckpt"], tmp_path, file), CHECKPOINT)
    assert (config.arch, config.num_classes) == ("t2t_vit_7", 10)
    told = [note for note in notes if "overrides" in note]
    assert told == [
        f"a.ckpt overrides {tmp_path}/recipe.yaml: arch t2t_vit_7 (not t2t_vit_19), num_classes 10 (not 1000)"
    ]


@pytest.mark.parametrize(
    "words",
    [["--arch", "t2t_vit_14"], ["--in_chans", "3"], ["--disable_approximate_gelu", "no"], ["--mean", "0.5"]],
)
def test_a_line_that_contradicts_the_checkpoint_is_refused(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{words[0]} .* contradicts a.ckpt, which holds .*; leave {words[0]} out"):
        resolve(said("eval", ["--pretrained", "a.ckpt", *words], tmp_path), CHECKPOINT)


def test_a_line_that_agrees_is_not(tmp_path: Path) -> None:
    words = [
        "--pretrained=a.ckpt",
        "--arch=t2t_vit_7",
        "--image_size=28,28",
        "--num_classes=0",
        "--mean=0.3",
        "--in_chans=1",
    ]
    config, notes = resolve(said("infer", words, tmp_path), CHECKPOINT)
    assert (config.num_classes, notes) == (10, [])


def test_some_keys_re_fit_the_checkpoint(tmp_path: Path) -> None:
    words = ["--pretrained", "a.ckpt", "--image_size", "32", "48", "--num_classes", "5", "--crop_pct", "0.9"]
    config, notes = resolve(said("export", words, tmp_path), CHECKPOINT)
    assert (config.image_size, config.num_classes, config.crop_pct) == ((32, 48), 5, 0.9)
    assert notes[0] == (
        "a.ckpt is adapted: image_size 32 48 (the checkpoint has 28), num_classes 5 (the checkpoint has 10), "
        "crop_pct 0.9 (the checkpoint has 1.0)"
    )


def test_fine_tuning_keeps_the_network_and_takes_the_rest_from_the_file(tmp_path: Path) -> None:
    file = "arch: t2t_vit_19\nimage_size: 64\nnum_classes: 3\nepochs: 4\n"
    config, notes = resolve(said("train", ["--pretrained", "a.ckpt"], tmp_path, file), CHECKPOINT)
    assert (config.arch, config.in_chans, config.image_size, config.num_classes) == ("t2t_vit_7", 1, 64, 3)
    assert (config.mean, config.dataset, config.epochs) == ((0.3,), "ImageNet", 4)
    assert notes[0].startswith("a.ckpt overrides") and notes[0].endswith(": arch t2t_vit_7 (not t2t_vit_19)")
    assert notes[1] == "taken from a.ckpt: crop_pct 1.0, mean 0.3, std 0.4, in_chans 1"
    with pytest.raises(UserError, match="--arch t2t_vit_19 contradicts"):
        resolve(said("train", ["--pretrained", "a.ckpt", "--arch", "t2t_vit_19"], tmp_path), CHECKPOINT)


@pytest.mark.parametrize("file", ["arch: t2t_vit_14\n", "in_chans: 4\n", "disable_approximate_gelu: False\n"])
def test_fine_tuning_keeps_each_part_of_the_network(file: str, tmp_path: Path) -> None:
    config, notes = resolve(said("train", ["--pretrained", "a.ckpt"], tmp_path, file), CHECKPOINT)
    assert (config.arch, config.in_chans, config.disable_approximate_gelu) == ("t2t_vit_7", 1, True)
    assert notes[0].startswith("a.ckpt overrides") and file.split(":")[0] in notes[0]


def test_as_many_classes_as_there_are_beats_the_file(tmp_path: Path) -> None:
    config, _ = resolve(said("train", ["--num_classes", "0"], tmp_path, "num_classes: 1000\n"))
    assert config.num_classes == 0


def test_fine_tuning_counts_the_classes_of_its_own_data(tmp_path: Path) -> None:
    config, _ = resolve(said("train", ["--pretrained", "a.ckpt"], tmp_path), CHECKPOINT)
    assert (config.num_classes, config.image_size) == (0, 28)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("seed: 1\n", ("FashionMNIST", "held_out")),
        ("val_dir: test\n", ("FashionMNIST", "test")),
        ("dataset: CIFAR10\n", ("CIFAR10", "validation_preprocess")),
    ],
)
def test_the_data_of_an_evaluation(file: str, expected: tuple[str, str], tmp_path: Path) -> None:
    config, _ = resolve(said("eval", ["--pretrained", "a.ckpt"], tmp_path, file), CHECKPOINT)
    assert (config.dataset, config.val_dir) == expected


def test_what_tensors_tell_of_foreign_weights_is_a_part_of_a_configuration(tmp_path: Path) -> None:
    options = said("eval", ["--pretrained", "w.pth.tar"], tmp_path, "disable_approximate_gelu: False\n")
    config, notes = resolve(options, {"arch": "t2t_vit_14", "num_classes": 1000})
    assert (config.arch, config.num_classes, config.disable_approximate_gelu) == ("t2t_vit_14", 1000, False)
    assert notes == []


def test_a_damaged_configuration_within_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its configuration is damaged: arch takes"):
        resolve(said("eval", ["--pretrained", "a.ckpt"], tmp_path), {"arch": 3})


def notes_of(*words: str, command: str = "train") -> list[str]:
    return resolve(parse(command, words))[1]


def test_keys_without_effect_stand_in_one_line() -> None:
    line = "without effect: re_count (re_prob is 0), lr_gamma (lr_scheduler is cosine_lr)"
    assert notes_of("--re_prob", "0", "--re_count", "1", "--lr_gamma", "0.5") == [line]


def test_a_commands_line_may_hold_keys_that_it_does_not_use() -> None:
    assert notes_of("--epochs", "3", "--switch_prob", "1", command="eval") == [
        "without effect: epochs (eval does not use it), switch_prob (eval does not use it)"
    ]


def test_grey_images_average_the_means_of_colours() -> None:
    note = "in_chans 1: mean 0.449 and std 0.226, from the defaults for three channels"
    assert notes_of("--in_chans", "1") == [note]
    assert notes_of("--in_chans", "1", "--mean", "0.5", "--std", "0.5") == []
    with pytest.raises(UserError, match="does not fit in_chans 1"):
        notes_of("--in_chans", "1", "--mean", ".485", ".456", ".406")


def test_only_training_refuses_what_training_cannot() -> None:
    assert notes_of("--amp_level", "O3", "--pretrained", "a", command="eval") == []
    with pytest.raises(UserError, match="amp_level O3 is for inference only"):
        notes_of("--amp_level", "O3")


def test_remarks_are_for_training() -> None:
    assert any("min_lr 0.1 is above base_lr" in note for note in notes_of("--min_lr", "0.1"))


@dataclass(frozen=True)
class Stopped:
    """A run that is to be continued, as far as the settings look at it."""

    content: dict[str, Any]
    path: Path = Path("b.ckpt")
    step: int = 40


BEGUN = Config(
    arch="t2t_vit_7", num_classes=10, image_size=28, seed=3, epochs=5, batch_size=7, base_lr=0.02, resume="auto",
    val_num_samples=4,
)  # fmt: skip


def goes_on(*words: str, place: dict[str, str] | None = None) -> tuple[Config, list[str]]:
    return continued(parse("train", words), Stopped({"config": BEGUN.to_dict()}), place)


def test_a_run_goes_on_with_its_own_settings(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("epochs: 9\nseed: 8\nresume: b.ckpt\nnum_classes: 0\nstart_epoch: 0\n")
    config, notes = goes_on(str(tmp_path / "c.yaml"))
    assert config.to_dict() == BEGUN.to_dict() | {"resume": ""}
    assert notes == [
        f"b.ckpt overrides {tmp_path}/c.yaml: epochs 5 (not 9), seed 3 (not 8); the command line would override both"
    ]


def test_the_command_line_changes_a_run_that_goes_on() -> None:
    config, notes = goes_on("--epochs", "9", "--batch_size", "7", "--ckpt_keep_num", "2")
    assert (config.epochs, config.batch_size, config.ckpt_keep_num, config.seed) == (9, 7, 2, 3)
    (note,) = notes
    assert note.startswith("changed from step 40 on: epochs 5 -> 9, ckpt_keep_num 10 -> 2; from there on, results ")
    assert goes_on("--ckpt_keep_num", "2")[1] == ["changed from step 40 on: ckpt_keep_num 10 -> 2"]
    assert goes_on("--num_classes", "0", "--start_epoch", "0", "--resume", "b.ckpt")[1] == []


def test_where_the_checkpoint_was_found_is_where_the_run_goes_on() -> None:
    config, _ = goes_on("--ckpt_root_dir", "else", place={"ckpt_root_dir": "moved", "model_postfix": "_b"})
    assert (config.ckpt_root_dir, config.model_postfix) == ("moved", "_b")


OTHER = {
    "arch": "t2t_vit_10", "in_chans": "1", "image_size": "32", "num_classes": "9", "disable_approximate_gelu": "False",
    "optimizer": "sgd", "layer_decay": "0.9", "freeze": "tokens", "dataset": "CIFAR10", "train_num_samples": "5",
    "val_num_samples": "5", "val_split": "0.2", "split_seed": "2", "val_seed": "2", "class_balance": "weights",
    "seed": "4", "with_ema": "True", "model_average": "swa", "start_epoch": "1",
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_what_would_give_the_state_another_meaning_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"the run of b.ckpt cannot be continued with {key} .* -> {OTHER[key]}: "):
        goes_on(f"--{key}", OTHER[key])


def test_a_seed_that_draws_the_same_images_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert goes_on("--val_seed", "3")[1] == []
    with pytest.raises(UserError, match="with val_seed seed -> 4: "):
        goes_on("--val_seed", "4")
    monkeypatch.setitem(globals(), "BEGUN", replace(BEGUN, val_num_samples=-1))
    assert not any("cannot be continued" in note for note in goes_on("--val_seed", "4")[1])


def test_every_key_that_is_refused_has_a_row_and_none_is_free() -> None:
    assert set(OTHER) == set(REFUSED)
    assert not FREE & set(REFUSED)
    assert FREE | set(REFUSED) <= set(KEYS) and CHOICE <= FREE


def test_a_configuration_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UserError, match="its configuration cannot be used: epochs takes"):
        continued(parse("train", []), Stopped({"config": {"epochs": "x"}}))


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["--amp_level", "O3"], "O3 is for inference only"),
        (["--mean", "0.1", "0.2"], "does not fit in_chans"),
    ],
)
def test_a_run_that_goes_on_is_checked_as_any_other(words: list[str], refused: str) -> None:
    with pytest.raises(UserError, match=refused):
        goes_on(*words)
