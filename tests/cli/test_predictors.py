"""`infer --runtime`: another runtime's answers are the network's own, and a run stays with the one it began in."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import t2t_vit
from t2t_vit.cli import predictors
from t2t_vit.cli.main import main
from t2t_vit.inference import runtime_choice
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.runtime_predictors import OnnxPredictor
from t2t_vit.settings.schema import Config

Run = Callable[..., tuple[int, str]]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """q.ckpt and photos/ of 70 pictures."""
    place = tmp_path_factory.mktemp("runtime")
    torch.manual_seed(0)
    model = t2t_vit.create_model("t2t_vit_quickstart", num_classes=5, image_size=28)
    config = {"arch": "t2t_vit_quickstart", "image_size": 28, "num_classes": 5, "in_chans": 3}
    held = {"format": "t2t_vit", "version": 1, "arch": "t2t_vit_quickstart", "config": config, "classes": list("abcde")}
    torch.save({**held, "epoch": 1, "step": 1, "model": model.state_dict(), "ema": None}, place / "q.ckpt")
    (place / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(70):
        pixels = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((28, 28)).save(place / f"photos/{number:02}.png")
    return place


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(place)

    def run(*line: str, output: str) -> tuple[int, str]:
        keys = ("--checkpoint", "q.ckpt", "--device_target", "CPU", "--workers", "0", "--batch_size", "1")
        code = main(["infer", "photos", *keys, "--top_k", "2", "--output", str(tmp_path / output), *line])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def convert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion takes seconds; later ones give the first one's predictor."""
    real, made = predictors._converted, {}

    def converted(own: Predictor, config: Config, name: str, images: torch.Tensor) -> Predictor:
        if name not in made:
            made[name] = real(own, config, name, images)  # type: ignore[arg-type]
        return made[name]

    monkeypatch.setattr(predictors, "_converted", converted)


@pytest.mark.parametrize("name", [pytest.param("openvino", marks=pytest.mark.thorough), "onnxruntime"])
def test_another_runtime_gives_the_same_answers(run: Run, tmp_path: Path, name: str) -> None:
    assert run(output="torch.json")[0] == 0
    code, err = run("--runtime", name, output="other.json")
    assert code == 0, err
    assert f"runtime: converting the network for {name}" in err
    ours, theirs = (json.loads((tmp_path / f"{one}.json").read_text()) for one in ("torch", "other"))
    assert ours.keys() == theirs.keys()
    for path, classes in ours.items():
        for one, other in zip(classes, theirs[path], strict=True):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
    assert any(ours[path] != theirs[path] for path in ours)  # they did not come from the same place


@pytest.mark.thorough
def test_auto_measures_where_the_work_is_long(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_choice, "LONG_ENOUGH", 0.0)
    monkeypatch.setattr(predictors, "_missing", lambda name: ["it"] if name == "openvino" else [])
    code, err = run(output="a.json")
    assert code == 0, err
    assert "runtime: trying onnxruntime and torch" in err
    assert ", by images/s in batches of 1: torch " in err
    monkeypatch.setattr(predictors, "_WORTH_MEASURING", 71)
    assert "runtime:" not in run(output="b.json")[1]


@pytest.mark.usefixtures("convert_once")
def test_a_run_is_continued_in_its_runtime(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(Exception):
        pass

    calls = iter(range(1000))
    begin = OnnxPredictor.begin

    def killed(*arguments: object) -> object:
        if next(calls) == 30:
            raise KilledError
        return begin(*arguments)  # type: ignore[arg-type]

    run("--runtime", "onnxruntime", output="straight.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(OnnxPredictor, "begin", killed)
        with pytest.raises(KilledError):
            run("--runtime", "onnxruntime", output="p.jsonl")
    code, err = run("--resume", "--runtime", "torch", output="p.jsonl")
    assert code == 2
    assert "had another runtime" in err
    code, err = run("--resume", output="p.jsonl")  # without its name
    assert code == 0, err
    assert "converting the network for onnxruntime" in err
    assert "from an earlier run" in err
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "straight.jsonl").read_bytes()


def test_what_cannot_be_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, err = run("--runtime", "openvino", "--amp_level", "O1", output="x.json")
    assert code == 2
    assert "runtime openvino runs on the CPU in float32 or bf16, not on cpu in O1" in err
    monkeypatch.setattr(predictors, "find_spec", lambda _: None)
    code, err = run("--runtime", "openvino", output="x.json")
    assert code == 2
    assert 'pip install "onnx>=' in err and '"openvino>=' in err
    assert run("--runtime", "auto", output="x.json")[0] == 0
