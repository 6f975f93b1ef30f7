"""`t2t-vit bench`: tables for people, whole JSON, and one sentence for a mistake."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from t2t_vit.bench.step import PARTS
from t2t_vit.cli.main import main
from t2t_vit.model.cost import count_cost

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = "--arch t2t_vit_quickstart --image_size 28 --rounds 1 --device_target CPU --batch_size 2"
ALWAYS = {
    "date", "commit", "command", "processor", "cores", "threads", "gpu", "cuda", "t2t_vit", "torch", "timm", "python",
    "system", "bench", "device", "precision", "rounds", "config",
}  # fmt: skip
FIGURE = {"seconds", "flops", "flops_per_second", "mfu_datasheet", "mfu_measured"}


def measured(line: str, place: Path) -> dict[str, Any]:
    file = place / "found.json"
    assert main(["bench", *shlex.split(line), "--output", str(file)]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    assert found.keys() >= ALWAYS
    assert ("rates" in found) == ("step" in found or "whole" in found)
    assert found.get("rates", {"measured": 1})["measured"] > 0
    return found


def test_bench_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(f"model {TINY} --num_classes 10", tmp_path)
    for direction in ("forward", "backward"):
        rows = [row[direction] for row in found["stages"] if row[direction]]
        assert sum(row["share"] for row in rows) == pytest.approx(1.0)
        assert all(row.keys() >= FIGURE for row in rows)
    flops = sum(row["forward"]["flops"] for row in found["stages"])
    assert flops == 2 * 2 * count_cost("t2t_vit_quickstart", 28, 10).macs
    whole = {row["name"]: row for row in found["whole"]}
    assert list(whole) == ["forward, as infer runs it", "forward, eager", "forward and backward, eager"]
    assert whole["forward, eager"]["flops"] == flops
    assert whole["forward, eager"]["images_per_second"] == pytest.approx(
        2 / whole["forward, eager"]["seconds"]["median"]
    )
    out = capsys.readouterr().out
    assert "attention1" in out
    assert "data sheet not known" in out
    assert max(map(len, out.splitlines())) <= 150


def test_bench_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = "--pynative_mode True --with_ema True --accumulation_step 2 --class_balance weights --amp_level O2"
    found = measured(f"step {TINY} {keys}", tmp_path)
    step = found["step"]
    assert step.keys() >= FIGURE | {"images_per_second", "memory", "synchronisations", "graphs", "steps"}
    assert tuple(row["name"] for row in step["parts"]) == PARTS
    assert sum(row["share"] for row in step["parts"]) == pytest.approx(1.0)
    assert (step["images"], found["precision"], found["compiled"]) == (4, "O2", False)
    assert "training step of 4 images, O2, eager" in capsys.readouterr().out


DATA = f"data {TINY} --pynative_mode True --num_parallel_workers 1 --train_num_samples 40 --auto_augment="


def test_bench_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe's network takes minutes to compile, so none is made unless a step is asked for."""
    monkeypatch.setattr("t2t_vit.assembly.build.network", None)
    found = measured(DATA, tmp_path)
    printed = capsys.readouterr()
    assert "no data folder is given: reading the small embedded Fashion-MNIST" in printed.err
    assert (found["config"]["dataset"], found["images"], found["kept"]) == ("FashionMNIST", 40, None)
    assert [row["workers"] for row in found["loader"]] == [0, 1]
    for parts in (found["reading"], found["on_device"]):
        assert sum(row["share"] for row in parts["parts"]) == pytest.approx(1.0)
    assert "step" not in found
    assert printed.out.splitlines()[-1].startswith("loader, 1 worker: ")


@pytest.mark.thorough
def test_bench_data_prints_what_it_has_before_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(f"{DATA} --step", tmp_path)
    assert found["step"]["images"] == 2
    *before, last = capsys.readouterr().out.splitlines()
    assert last.startswith("training step, t2t_vit_quickstart, ") and " x with 1 worker" in last

    def fail(*_: object) -> None:
        raise RuntimeError("compiling")

    monkeypatch.setattr("t2t_vit.assembly.build.network", fail)
    with pytest.raises(RuntimeError, match="compiling"):
        measured(f"{DATA} --step", tmp_path)
    again = capsys.readouterr().out.splitlines()
    assert [line.split()[:1] for line in again] == [line.split()[:1] for line in before]


@pytest.mark.gpu
def test_on_a_gpu_memory_is_told_and_no_step_waits(tmp_path: Path) -> None:
    gpu = TINY.replace("CPU", "GPU").replace("--batch_size 2", "--batch_size 64")
    for line in (f"step {gpu} --amp_level bf16 --with_ema True --pynative_mode {eager}" for eager in (True, False)):
        found = measured(line, tmp_path)
        assert found["gpu"]
        assert found["step"]["synchronisations"] == 0
        assert found["step"]["memory"] > 0
    assert found["step"]["graphs"] == {"graphs": 1, "breaks": 0, "recompiled": 0}
    stages = measured(f"model {gpu} --amp_level bf16", tmp_path)["stages"]
    assert sum(row["backward"]["share"] for row in stages) == pytest.approx(1.0)


def test_a_configuration_is_printed_and_nothing_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "--config", "quickstart", "--batch_size", "3", "--print_config"]) == 0
    out = capsys.readouterr().out
    assert "batch_size: 3\n" in out
    assert "optimizer: muon\n" in out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "bench needs something to work on: model, step or data"),
        ("modle", "bench takes model, step or data; not 'modle'"),
        ("model step", "unexpected word 'step' on the command line of bench"),
        ("model --rounds 0", "--rounds takes a whole number of at least 1 and at most 100000; not '0'"),
        ("model --rouns 3", "unknown option '--rouns'; did you mean '--rounds'?"),
        ("model --arch t2t_vit_99", "--arch takes"),
        ("model --output .", "output '.': is a folder"),
        ("step --step", "--step belongs to bench data; leave it out of bench step"),
        ("step --amp_level O3", "amp_level: O3 is for inference only"),
        ("data --data_url nowhere", "data_url nowhere does not exist"),
        ("data --device_target CPU --dataset CIFAR10", "CIFAR-10 needs data_url"),
    ],
)
def test_mistakes_are_one_sentence(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *shlex.split(line)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sentence in err
