"""The configuration file: read strictly, written so that it reads back."""

import os
import re
from pathlib import Path
from threading import Thread

import pytest
import yaml

from t2t_vit.errors import UserError
from t2t_vit.settings.file import read_config, to_yaml
from t2t_vit.settings.schema import Config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def test_scalars_are_read_as_on_the_line(file: Path) -> None:
    file.write_text(
        "\ufeff# a recipe\nbase_lr: 5e-4\nbeta: [ 0.9, 0.95 ]\nmean:\n  - .5\nwith_ema: yes\nauto_augment:\n"
        "resume: ~\nmodel_postfix: 007\nimage_size: [96, 160]\nepochs: '3'\ndata_url: \"null\"\n",
        encoding="utf-8",
    )
    assert read_config(file) == {
        "base_lr": 5e-4,
        "beta": (0.9, 0.95),
        "mean": (0.5,),
        "with_ema": True,
        "auto_augment": "",
        "resume": "",
        "model_postfix": "007",
        "image_size": (96, 160),
        "epochs": 3,
        "data_url": "null",
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"epochs: 3\nepoch: 3\n", ":2: unknown key 'epoch'; did you mean 'epochs'?"),
        (b"epochs: 3\nseed: 1\nepochs: 4\n", ":3: the key 'epochs' appears twice; keep one of them"),
        (b"epochs: ten\n", ":1: epochs takes a whole number of at least 1; not 'ten'"),
        (b"epochs:\n", ":1: epochs takes a whole number of at least 1; not ''"),
        (b"epochs: [3]\n", ":1: epochs takes a whole number of at least 1; not '[3]'"),
        (b"base_lr: .nan\n", ":1: base_lr takes a number above 0; not '.nan'"),
        (b"arch:\n  name: x\n", ":1: arch takes one value or a flat list, not a nested one"),
        (b"beta: [[0.9, 0.95]]\n", ":1: beta takes one value or a flat list"),
        (b"[a, b]: 3\n", ":1: a key is one word"),
        (b"<<: {epochs: 3}\n", ":1: unknown key '<<'"),
        (b"- epochs\n", ": is not a mapping of keys to values; write lines such as 'epochs: 10'"),
        (b"epochs 3\n", ": is not a mapping"),
        (b"# nothing\n", ": contains no keys; write lines such as 'epochs: 10'"),
        (b"", ": contains no keys"),
        (b"epochs: [3\n", ":2: not valid YAML: "),
        (b"epochs: 3\n---\nseed: 1\n", ":2: not valid YAML: "),
        (b"epochs: *a\n", ":1: not valid YAML: "),
        (b"epochs: 3\n\tseed: 1\n", ":2: not valid YAML: "),
        (b"epochs: 3\0\n", ": not valid YAML: "),
        (b"[" * 5000, ": not valid YAML: "),
        (b"PK\x03\x04\xff\xfe", ": is not text in UTF-8; a configuration is a YAML file"),
        (b"!!python/object/apply:os.system [echo]\n", ": is not a mapping"),
        (b"epochs: !!python/object/apply:os.system [echo]\n", ":1: epochs takes a whole number"),
        (b"seed: 1\nepochs: 1:30\n", ":2: epochs takes a whole number of at least 1; not '1:30'"),
        (b"epochs: 0x10\n", ":1: epochs takes a whole number of at least 1; not '0x10'"),
        (b"epochs: " + b"9" * 5000 + b"\n", ":1: epochs takes a whole number of at least 1; not '9999"),
        (b"base_lr: .inf\n", ":1: base_lr takes a number above 0; not '.inf'"),
        (b"a: &a [1]\nmean: [*a, *a]\n", ":1: unknown key 'a'"),
        (b"mean: &a [*a]\n", ":1: mean takes one value or a flat list"),
        (b"val_dir: &a [x, x]\ntrain_dir: [*a, *a]\n", ":1: val_dir takes a path; not '[x, x]'"),
        (b"#" * 100_001, ": is not a configuration: it has more than 100,000 bytes"),
    ],
)
def test_mistakes_in_the_file(file: Path, content: bytes, sentence: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_config(file)
    assert str(caught.value).startswith(f"{file}{sentence}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path)


ODD = Config(
    data_url="/a path/it's: #1",
    train_dir="null",
    val_dir="a\nb\u0007é",
    auto_augment="3a",
    beta=(0.8, 1e-7),
    mean=(0.5,),
    eps=1e-8,
    weight_decay=1e-20,
    loss_scale=1e16,
    seed=2**62,
    image_size=(96, 160),
    pretrained="yes",
    resume="- x",
    model_postfix="12",
    with_ema=True,
)


@pytest.mark.parametrize("config", [Config(), ODD])
def test_what_is_written_reads_back(file: Path, config: Config) -> None:
    file.write_text(to_yaml(config), encoding="utf-8")
    assert file.read_text(encoding="utf-8").startswith("# ===== Dataset ===== #\n")
    assert Config.from_dict(read_config(file)) == config


@pytest.mark.parametrize("config", [Config(), ODD])
def test_other_readers_of_yaml_understand_it(config: Config) -> None:
    assert Config.from_dict(yaml.safe_load(to_yaml(config))) == config


def test_headings_are_the_sections() -> None:
    headings = re.findall(r"^# ===== (.*) ===== #$", to_yaml(Config()), re.MULTILINE)
    assert headings == [
        "Dataset",
        "Augmentations",
        "Optimizer",
        "Network training config",
        "Model arguments",
        "Hardware setup",
        "Callbacks setup",
    ]


def test_a_pipe_is_read_to_its_end_but_not_waited_for_without_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2t_vit.settings.file.PATIENCE", 0.2)
    os.mkfifo(file)
    with pytest.raises(UserError, match=r"cannot be read \(no data came through this pipe for 0.2 seconds\)"):
        read_config(file)
    monkeypatch.undo()
    writer = Thread(target=file.write_text, args=("epochs: 3\n",))
    writer.start()
    assert read_config(file) == {"epochs": 3}
    writer.join()


def test_a_pipe_that_ends_empty_is_a_configuration_without_keys(file: Path) -> None:
    os.mkfifo(file)
    writer = Thread(target=file.write_text, args=("",))
    writer.start()
    with pytest.raises(UserError, match="contains no keys"):
        read_config(file)
    writer.join()
