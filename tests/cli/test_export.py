"""The export command: its options, `all`, and exported files in eval and infer."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import t2t_vit
from t2t_vit.cli.main import main
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.export.file_formats import FORMATS
from t2t_vit.platforms import this_host

DATA = ["--dataset", "FashionMNIST", "--val_num_samples", "40"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = t2t_vit.create_model("t2t_vit_quickstart", image_size=28, num_classes=10, in_chans=1)
    with torch.no_grad():
        model.head.weight.mul_(20)
    config = {
        "arch": "t2t_vit_quickstart",
        "num_classes": 10,
        "image_size": 28,
        "in_chans": 1,
        "crop_pct": 1.0,
        "mean": [0.3],
        "std": [0.35],
        "disable_approximate_gelu": True,
    }
    classes = list(fashion_mnist("val", "L").classes)
    path = tmp_path_factory.mktemp("net") / "net.ckpt"
    torch.save(
        {"format": "t2t_vit", "version": 1, "config": config, "classes": classes, "model": model.state_dict()}, path
    )
    return str(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the table shorter."""

    def shorten(*names: str) -> None:
        for name in set(FORMATS) - set(names):
            monkeypatch.delitem(FORMATS, name)

    return shorten


def test_all_prints_a_table_and_says_what_is_not_there(
    checkpoint: str, here: Path, only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    only("PT2", "SAFETENSORS", "AIR")
    assert main(["export", "--file_format", "all", "--pretrained", checkpoint, *DATA]) == 0
    first, air, pt2, safetensors = capsys.readouterr().out.splitlines()
    assert first.split() == ["format", "size", "load", "images/s", "difference", "top-1", "file"]
    assert air.split()[:3] == ["AIR", "not", "written:"] and "Ascend" in air
    for line, file in ((pt2, "t2t_vit_quickstart.pt2"), (safetensors, "t2t_vit_quickstart.safetensors")):
        assert line.split()[2] == "MB" and "100.0%" in line and line.endswith(file)
    assert {path.name for path in here.iterdir()} == {"t2t_vit_quickstart.pt2", "t2t_vit_quickstart.safetensors"}


def test_missing_packages_are_listed(
    checkpoint: str,
    here: Path,
    only: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "executorch", None)
    only("EXECUTORCH")
    assert main(["export", "--file_format", "all", "--pretrained", checkpoint, *DATA]) == 0
    out = capsys.readouterr().out
    assert 'needs the package executorch; install it with: pip install "executorch>=' in out
    assert list(here.iterdir()) == []


def test_a_writer_that_fails_is_a_row_and_the_others_go_on(
    checkpoint: str,
    here: Path,
    only: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(_job: object, _path: Path) -> None:
        raise LookupError("no such\n operator \x1b[2J")

    only("PT2", "SAFETENSORS")
    monkeypatch.setitem(FORMATS, "PT2", replace(FORMATS["PT2"], write=write))
    (here / f".t2t_vit-export-{this_host()}-killed").mkdir()
    (here / f".t2t_vit-export-{this_host()}-killed" / ".lock").touch()
    assert main(["export", "--file_format", "all", "--pretrained", checkpoint, *DATA]) == 1
    out = capsys.readouterr().out
    assert r"not written, as conversion failed: LookupError: no such operator \x1b[2J" in out
    assert {path.name for path in here.iterdir()} == {"t2t_vit_quickstart.safetensors"}


def test_a_file_that_disagrees_costs_the_exit_code(
    checkpoint: str,
    here: Path,
    only: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(job: object, path: Path) -> None:
        torch.manual_seed(1)
        other = t2t_vit.create_model("t2t_vit_quickstart", image_size=28, num_classes=10, in_chans=1)
        FORMATS["PT2"].write(replace(job, model=other.eval()), path)  # type: ignore[type-var]

    only("PT2", "SAFETENSORS")
    monkeypatch.setitem(FORMATS, "SAFETENSORS", replace(FORMATS["SAFETENSORS"], write=write))
    assert main(["export", "--file_format", "all", "--pretrained", checkpoint, *DATA]) == 1
    assert "not written, because it does not agree" in capsys.readouterr().out
    assert [path.name for path in here.iterdir()] == ["t2t_vit_quickstart.pt2"]


@pytest.mark.usefixtures("here")
def test_eval_and_infer_take_an_exported_file_as_they_take_the_checkpoint(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--file_format", "PT2", "--pretrained", checkpoint, "--output", "out", *DATA]) == 0
    exported = "out/t2t_vit_quickstart.pt2"
    assert capsys.readouterr().out.startswith(f"{exported}\nlargest logit difference ")
    results = []
    for path in (checkpoint, exported):
        words = ["eval", "--pretrained", path, "--output", "r.json", "--num_parallel_workers", "0", *DATA]
        assert main([*words, "--allow_native_code"]) == 0
        results.append(json.loads(Path("r.json").read_text(encoding="utf-8")))
    assert results[0]["Top1-Acc"] == results[1]["Top1-Acc"]
    assert results[0]["Loss"] == pytest.approx(results[1]["Loss"], rel=1e-5)
    Path("photos").mkdir()
    images = fashion_mnist("val", "L")
    for number in range(5):
        images.read(number).save(f"photos/{number}.png")
    answers = []
    for path in (checkpoint, exported):
        assert main(["infer", "photos", "--checkpoint", path, "--output", "p.json", "--allow_native_code"]) == 0
        answers.append(json.loads(Path("p.json").read_text(encoding="utf-8")))
    assert answers[0] == answers[1] and len(answers[0]) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--precision", "fp8"], "--precision takes one of fp32, fp16, int8; not 'fp8'"),
        (["--batch", "0"], "--batch takes a whole number of at least 1"),
        (["--batch", "many"], "not 'many'"),
        (["--preprocessing", "both"], "--preprocessing takes one of inside, outside; not 'both'"),
        (["--calibration", "10"], "--calibration has no effect with --precision fp32"),
        (["--file_format", "PT2", "--precision", "int8"], "PT2 has no precision int8; choose fp32 or fp16"),
        (["--file_format", "PT2", "--dynamic_size"], "PT2 has a fixed image size"),
    ],
)
def test_options_that_cannot_be(
    words: list[str], said: str, checkpoint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--pretrained", checkpoint, "--file_format", "ONNX", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and list(here.iterdir()) == []
