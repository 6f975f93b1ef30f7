"""`--device` says what device_target and device_id say."""

import sys
from typing import Any

import pytest

from t2t_vit.errors import UserError
from t2t_vit.settings.command_line import parse
from t2t_vit.settings.commands import COMMANDS

LINUX_WORDS = {
    "cpu": {"device_target": "CPU"},
    "CPU": {"device_target": "CPU"},
    "cuda": {"device_target": "GPU"},
    "gpu": {"device_target": "GPU"},
    "cuda:1": {"device_target": "GPU", "device_id": 1},
    "0": {"device_target": "GPU", "device_id": 0},
    "3": {"device_target": "GPU", "device_id": 3},
    "auto": {"device_target": "auto"},
    "xpu": {"device_target": "XPU"},
    "xpu:1": {"device_target": "XPU", "device_id": 1},
    "npu:2": {"device_target": "Ascend", "device_id": 2},
}


def line_of(command: str, *words: str) -> dict[str, Any]:
    subject = {"infer": ["a.png"], "show": ["a.png"], "bench": ["step"]}.get(command, [])
    return dict(parse(command, [*subject, *words]).line)


@pytest.mark.parametrize("word", LINUX_WORDS)
@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if "device_target" in command.uses])
def test_every_command_that_has_a_device_takes_it(command: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert line_of(command, "--device", word) == LINUX_WORDS[word]
    assert line_of(command, f"--device={word}", "--device_target", LINUX_WORDS[word]["device_target"])


def test_the_devices_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UserError, match="--device mps: this machine has none; write --device auto for"):
        line_of("train", "--device", "mps")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert line_of("train", "--device", "mps") == {"device_target": "MPS"}
    with pytest.raises(UserError, match="--device cuda:1: this machine has none; write --device auto for"):
        line_of("train", "--device", "cuda:1")


@pytest.mark.parametrize("word", ["0,1", "tpu", "cuda:x", "", "-1", "mps:0", "cuda:"])
def test_words_that_name_no_device(word: str) -> None:
    takes = r"takes cpu, cuda \(also for AMD\), cuda:1, mps, xpu, auto or a number"
    with pytest.raises(UserError, match=f"--device ({takes}|needs a value)"):
        line_of("train", f"--device={word}")


def test_a_key_that_says_something_else() -> None:
    with pytest.raises(UserError, match="--device cpu and --device_target GPU contradict each other"):
        line_of("eval", "--device", "cpu", "--device_target", "GPU")
    with pytest.raises(UserError, match="--device 1 and --device_id 0 contradict each other"):
        line_of("eval", "--device_id", "0", "--device", "1")
