"""The commands as a user runs them, on a small folder of images; each part goes on from what the one before left."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.cli.main import main

Run = Callable[..., tuple[int, str, str]]


def write_folder(folder: Path, classes: tuple[str, ...], per_class: int) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 120, (30, 40, 3)) + np.array([0, 60 * number, 0])
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")


SMALL = {
    "arch": "t2t_vit_quickstart",
    "image_size": "28",
    "epochs": "2",
    "warmup_length": "1",
    "batch_size": "4",
    "num_parallel_workers": "0",
    "pynative_mode": "True",
    "device_target": "CPU",
    "print_loss_every": "2",
    "with_ema": "True",
    "ema_decay": "0.5",
}


def words(**keys: object) -> list[str]:
    return [word for key, value in keys.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with photos/{train,val}/{cat,dog,eel}, and a trained checkpoint in runs/."""
    place = tmp_path_factory.mktemp("place")
    write_folder(place / "photos/train", ("cat", "dog", "eel"), 4)
    write_folder(place / "photos/val", ("cat", "dog", "eel"), 3)
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    assert main(["train", *words(data_url="photos", val_dir="val", **SMALL)]) == 0
    patch.undo()
    return place


def test_eval_writes_a_report_of_its_classes_and_measures_the_same(run: Run, place: Path, tmp_path: Path) -> None:
    page = tmp_path / "found.html"
    checkpoint = str(place / "runs/checkpoints/t2t_vit_quickstart/t2t_vit_quickstart-2_6.ckpt")
    line = ["eval", "--pretrained", checkpoint, "--data_url", "photos", "--val_dir", "val", "--device", "cpu"]
    plain, with_report = run(*line), run(*line, "--report", str(page))
    assert plain[0] == with_report[0] == 0 and plain[1] == with_report[1]
    rounded, results = plain[1].splitlines()
    assert re.fullmatch(
        r"loss \d\.\d{4}, top-1 [\d.]+%, top-5 100\.00%, balanced accuracy [\d.]+%, macro F1 [\d.]+% of 9 images, "
        r"measured in O0 on cpu",
        rounded,
    )
    assert results.startswith("eval results: {'Loss': ")
    text = page.read_text()
    for name in ("Accuracy by class", "Confusion", "Calibration", "<bdi>dog</bdi>", "measured in O0 on cpu"):
        assert name in text
    assert "Curves" not in text and "Speed and hardware" not in text
    code, out, err = run(*line, "--report", str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1) and str(tmp_path) in err
    code, out, err = run(*line, "--report", str(page), "--answers", str(page))
    assert (code, out) == (2, "") and err == f"t2t-vit: --answers {page}: is also the report; choose another file\n"


def test_eval_says_that_the_run_measured_in_another_precision(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(place / "runs/checkpoints/t2t_vit_quickstart/t2t_vit_quickstart-2_6.ckpt")
    line = ["eval", "--pretrained", checkpoint, "--data_url", "photos", "--val_dir", "val", "--device", "cpu"]
    _, _, err = run(*line, "--amp_level", "bf16")
    sentence = "the run measured this checkpoint in O0, this evaluation uses bf16"
    assert sentence in err and "for the precision of the run, add --amp_level O0" in err
    _, _, err = run(*line, "--amp_level", "O0")
    assert sentence not in err and "measured in O0, this" not in err
    held = torch.load(checkpoint, weights_only=True)
    monkeypatch.setattr("t2t_vit.precision.cpu_multiplies_bf16", lambda: True)
    torch.save(held | {"config": held["config"] | {"amp_level": "auto"}}, tmp_path / "auto.ckpt")
    line[2] = str(tmp_path / "auto.ckpt")
    _, _, err = run(*line)
    assert "this checkpoint in bf16 (amp_level auto), this evaluation uses O0" in err and "--amp_level bf16" in err
    _, _, err = run(*line, "--amp_level", "bf16")
    assert "for the precision of the run" not in err


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    monkeypatch.chdir(place)
    return command


@pytest.fixture
def checkpoint(place: Path) -> str:
    (path,) = (place / "runs/checkpoints/t2t_vit_quickstart").glob("*-*.ckpt")
    return str(path.relative_to(place))


def test_train_leaves_the_four_folders(place: Path, checkpoint: str) -> None:
    assert Path(checkpoint).name == "t2t_vit_quickstart-2_6.ckpt"
    assert (place / checkpoint).with_suffix(".yaml").exists()
    assert list((place / "runs/best_checkpoints/t2t_vit_quickstart").glob("*-*.ckpt"))
    assert list((place / "runs/best_checkpoints/t2t_vit_quickstart/ema").glob("*.ckpt"))
    assert list((place / "runs/summary/t2t_vit_quickstart").glob("events*"))
    log = (place / "runs/logs/t2t_vit_quickstart/train.log").read_text()
    assert "epoch 2/2" in log
    assert "ema: Loss" in log


def test_train_leaves_a_report_with_the_numbers_of_its_log(place: Path) -> None:
    logs = place / "runs/logs/t2t_vit_quickstart"
    found = json.loads((logs / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (logs / "history.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert last["kind"] == "epoch" and found["step"] == last["step"] == 6
    assert found["scores"]["raw"]["top1"] == last["val_top1"] and found["scores"]["ema"]["top1"] == last["ema_top1"]
    better = "ema" if last["ema_top1"] >= last["val_top1"] else "raw"
    assert (found["weights"], found["count"]) == (better, 9)
    assert found["top1"] == found["scores"][better]["top1"]
    assert found["loss"] == pytest.approx(found["scores"][better]["loss"], rel=1e-6)
    assert [score["count"] for score in found["class_scores"]] == [3, 3, 3]
    assert len(found["mistakes"]) == round(9 * (1 - found["top1"]))
    assert all(row["update_norm"] > 0 and row["param_norm"] > 0 and row["memory"] > 0 for row in rows)
    assert all(row["mfu"] is None for row in rows)  # nobody knows a processor's peak
    assert f"{100 * found['top1']:.2f} %" in (logs / "report.html").read_text()


def test_the_checkpoint_describes_itself(place: Path, checkpoint: str) -> None:
    content = torch.load(place / checkpoint, weights_only=True)
    assert content["classes"] == ["cat", "dog", "eel"]
    assert content["config"]["num_classes"] == 3
    assert content["config"]["image_size"] == 28
    assert (content["epoch"], content["step"]) == (2, 6)


def test_equal_runs_make_equal_checkpoints(run: Run, place: Path, checkpoint: str) -> None:
    assert run("train", *words(data_url="photos", val_dir="val", ckpt_root_dir="again", **SMALL))[0] == 0
    first = torch.load(place / checkpoint, weights_only=True)
    second = torch.load(place / "again/t2t_vit_quickstart-2" / Path(checkpoint).name, weights_only=True)
    for part in ("model", "ema"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])


def results(out: str) -> dict[str, float]:
    line = out.splitlines()[-1]
    assert line.startswith("eval results: ")
    return ast.literal_eval(line.removeprefix("eval results: "))


def test_eval_from_the_checkpoint_alone_whatever_the_batch_size(run: Run, checkpoint: str) -> None:
    code, out, err = run("eval", "--pretrained", checkpoint, "--num_parallel_workers", "0", "--output", "e/r.json")
    assert code == 0
    found = results(out)
    assert list(found) == ["Loss", "Top1-Acc", "Top5-Acc"]
    assert found["Top5-Acc"] == 1.0
    assert found["Top1-Acc"] * 9 == pytest.approx(round(found["Top1-Acc"] * 9))
    assert json.loads(Path("e/r.json").read_text(encoding="utf-8")) == found
    assert "weights, 9 images" in err
    again = results(run("eval", "--pretrained", checkpoint, "--batch_size", "2", "--num_parallel_workers", "0")[1])
    assert again == pytest.approx(found, abs=1e-6)


def test_eval_names_what_the_file_says_otherwise(run: Run, checkpoint: str) -> None:
    code, _, err = run("eval", "t2t_vit_14", "--pretrained", checkpoint, *words(data_url="photos", val_dir="val"))
    assert code == 0
    assert re.search(r"arch.*t2t_vit_14", err)


def test_eval_refuses_an_arch_that_contradicts(run: Run, checkpoint: str) -> None:
    code, out, err = run("eval", "--pretrained", checkpoint, "--arch", "t2t_vit_14")
    assert (code, out) == (2, "")
    assert "t2t_vit_14" in err
    assert len(err.splitlines()) == 1


def test_eval_refuses_other_classes(run: Run, place: Path, checkpoint: str) -> None:
    if not (place / "others").exists():
        write_folder(place / "others/val", ("ant", "bee", "cat"), 1)
    code, _, err = run("eval", "--pretrained", checkpoint, *words(data_url="others", num_parallel_workers=0))
    assert code == 2
    assert "'dog'" in err.splitlines()[-1]


def test_infer_a_folder_with_a_broken_image(run: Run, place: Path, checkpoint: str) -> None:
    folder = place / "mixed"
    folder.mkdir(exist_ok=True)
    for name in ("b.PNG", "a b.jpeg"):
        Image.new("RGB", (50, 30), "green").save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    (folder / "notes.txt").write_text("not an image")
    code, out, err = run("infer", "mixed", "--checkpoint", checkpoint, "--output", "p.json")
    assert code == 1
    found = json.loads(Path("p.json").read_text(encoding="utf-8"))
    assert list(found) == ["mixed/a b.jpeg", "mixed/b.PNG"]
    names = ("cat", "dog", "eel")
    assert out.splitlines() == [f"{path} (class: {n}) {names[n]}" for path, n in found.items()]
    assert any(line.startswith("mixed/broken.jpg: ") for line in err.splitlines())


def test_export_and_infer_by_onnx_as_by_checkpoint(run: Run, checkpoint: str) -> None:
    code, out, _ = run("export", "--file_format", "ONNX", "--pretrained", checkpoint, "--arch", "t2t_vit_quickstart")
    assert code == 0
    assert out.splitlines()[0] == "t2t_vit_quickstart.onnx"
    assert "largest logit difference" in out
    answers = []
    for file in (checkpoint, "t2t_vit_quickstart.onnx"):
        assert run("infer", "photos/val/cat", "--checkpoint", file, "--output", "o.json")[0] == 0
        answers.append(json.loads(Path("o.json").read_text(encoding="utf-8")))
    assert answers[0] == answers[1]
    assert len(answers[0]) == 3


def test_a_format_that_cannot_be_written_leaves_nothing(run: Run, place: Path, checkpoint: str) -> None:
    before = set(place.iterdir())
    code, out, err = run("export", "--file_format", "AIR", "--pretrained", checkpoint)
    assert (code, out) == (2, "")
    assert "AIR needs an Ascend machine" in err and "nothing was written" in err
    assert set(place.iterdir()) == before


def test_mindir_without_mindspore_is_kept_and_not_verified(
    run: Run, place: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("T2T_VIT_MINDSPORE_PYTHON", raising=False)
    monkeypatch.setattr("t2t_vit.export.file_formats.mindspore_python", lambda: None)
    monkeypatch.setattr("t2t_vit.inference.mindir_predictor.mindspore_python", lambda: None)
    code, out, _ = run("export", "--file_format", "MINDIR", "--pretrained", checkpoint)
    path, said = out.splitlines()
    assert (code, path) == (0, "t2t_vit_quickstart.mindir") and (place / path).is_file()
    assert said.startswith(
        'not verified: MindSpore is not installed; install it with: pip install "mindspore==2.10.0" "numpy<2"'
    )
    code, _, err = run("infer", "photos/val/cat", "--checkpoint", path)
    assert code == 2 and "MindSpore is not installed" in err


def test_export_needs_no_data(run: Run, place: Path, checkpoint: str) -> None:
    (place / "away.yaml").write_text("data_url: /not/on/this/machine\n")
    line = ("export", "--file_format", "ONNX", "--pretrained", checkpoint)
    code, out, err = run(*line, "--config", "away.yaml")
    assert (code, out.splitlines()[0]) == (0, "t2t_vit_quickstart.onnx")
    assert "compared on embedded images, because data_url /not/on/this/machine does not exist" in err
    code, _, err = run(*line, "--data_url", "/not/on/this/machine")
    assert (code, err.count("\n")) == (2, 1)


def test_fine_tuning_replaces_the_head(run: Run, place: Path, checkpoint: str) -> None:
    if not (place / "two").exists():
        write_folder(place / "two/train", ("x", "y"), 4)
        write_folder(place / "two/val", ("x", "y"), 1)
    keys = {**SMALL, "epochs": "1", "model_postfix": "_two"}
    code, out, err = run("train", *words(data_url="two", val_dir="val", pretrained=checkpoint, **keys))
    assert code == 0, err
    assert "head.weight, head.bias newly initialised" in err
    assert "t2t_vit_quickstart_two" in out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["train", "--epoch", "3"], "did you mean '--epochs'"),
        (["train", "--data_url", "nowhere"], "nowhere"),
        (["train", "quickstart", "--device_target", "CPU", "--device_num", "2"], "torchrun"),
        (["train", "quickstart", "--pretrained", "photos/train/cat/0.png"], "0.png"),
        (["train", "quickstart", "--num_classes", "7"], "num_classes is 7"),
        (["train", "quickstart", "--optimizer", "adamww"], "did you mean adamw"),
        (["train", "quickstart", "--amp_level", "O3"], "inference only"),
        (["train", "quickstart", "--resume", "none.ckpt"], "none.ckpt: no such file"),
        (["eval", "quickstart"], "--pretrained"),
        (["eval", "--pretrained", "none.ckpt"], "none.ckpt"),
        (["infer", "photos/val/cat"], "--checkpoint"),
        (["infer", "photos", "--checkpoint", "CKPT"], "subfolders are not searched"),
        (["infer", "nothing.png", "--checkpoint", "CKPT"], "nothing.png"),
        (["export", "--file_format", "ONNX"], "--pretrained"),
        (["export", "--file_format", "ONXX", "--pretrained", "CKPT"], "ONNX"),
        (["trian"], "did you mean 'train'"),
    ],
)
def test_a_mistake_is_one_sentence(run: Run, checkpoint: str, line: list[str], sentence: str) -> None:
    code, out, err = run(*[checkpoint if word == "CKPT" else word for word in line])
    assert (code, out) == (2, "")
    assert sentence in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("t2t-vit: ")


def test_print_config_reproduces_the_run(run: Run) -> None:
    _, text, _ = run("train", "quickstart", "--epochs", "3", "--print_config")
    Path("printed.yaml").write_text(text, encoding="utf-8")
    assert run("train", "printed.yaml", "--print_config")[1] == text
