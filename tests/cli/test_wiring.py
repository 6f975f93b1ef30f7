"""The commands hand on what they were told: seen by the objects that arrive where the work begins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit import PackedNetwork, create_model
from t2t_vit.assembly import build, callbacks
from t2t_vit.assembly.best import Ending, better
from t2t_vit.assembly.run import Result
from t2t_vit.cli import eval as evaluation
from t2t_vit.cli import export, infer, predictors, quickstart, train, weights
from t2t_vit.cli.main import main
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import EvalLoader
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.export.job import Kind
from t2t_vit.export.write import Exported
from t2t_vit.inference.item import Item
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.report.run_files import ROOT_KEYS
from t2t_vit.settings.schema import Config
from t2t_vit.training.divergence import StopOnDivergence
from t2t_vit.training.journal import Journal
from t2t_vit.training.measurements import Utilisation
from t2t_vit.training.retention import Checkpoints
from t2t_vit.training.run import Folders, Run, RunMark
from t2t_vit.training.state import State
from t2t_vit.training.trackers import Summary
from t2t_vit.weights import read_weights

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = list(fashion_mnist("val", "L").classes)
HELD: dict[str, Any] = {
    "arch": "t2t_vit_quickstart", "num_classes": 10, "image_size": 28, "in_chans": 1, "crop_pct": 0.8, "mean": [0.31],
    "std": [0.42], "disable_approximate_gelu": False, "dataset": "FashionMNIST", "val_num_samples": 30, "seed": 5,
}  # fmt: skip
PREPROCESSING = Preprocessing((28, 28), 0.8, (0.31,), (0.42,), 1)


def write_checkpoint(path: Path, seed: int = 0) -> None:
    """A checkpoint of ours whose raw and averaged weights differ."""
    torch.manual_seed(seed)
    raw, ema = (create_model("t2t_vit_quickstart", num_classes=10, image_size=28, in_chans=1) for _ in range(2))
    held = {"format": "t2t_vit", "version": 1, "arch": "t2t_vit_quickstart", "config": HELD, "classes": CLASSES}
    torch.save({**held, "epoch": 1, "step": 1, "model": raw.state_dict(), "ema": ema.state_dict()}, path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "q.ckpt")
    return tmp_path


def names(images: ImageSet) -> list[str]:
    return [images.name(number) for number in range(len(images))]


def keep(monkeypatch: pytest.MonkeyPatch, module: object, name: str, answer: Any = None) -> dict[str, Any]:
    """Replaces a function; what it was called with is kept under its keywords and `0`, `1`, ..."""
    kept: dict[str, Any] = {}

    def instead(*arguments: Any, **keys: Any) -> Any:
        kept.update({str(number): value for number, value in enumerate(arguments)} | keys)
        return answer

    monkeypatch.setattr(module, name, instead)
    return kept


Kept = dict[str, Any]


@pytest.fixture
def evaluated(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Kept, Kept]]:
    """`evaluated(*words)`: the command eval up to where the evaluation begins; its arguments, and its loader's."""

    def run(*words: str) -> tuple[Kept, Kept]:
        given = keep(monkeypatch, evaluation, "evaluate", Metrics(1.0, 0.5, 0.75, 30))
        loader = keep(monkeypatch, build, "EvalLoader")
        assert main(["eval", "--pretrained", str(here / "q.ckpt"), "--device_target", "CPU", *words]) == 0
        return given, loader

    return run


@pytest.mark.parametrize(
    ("level", "autocast", "weights"),
    [("O0", None, torch.float32), ("bf16", torch.bfloat16, torch.float32), ("O3", None, torch.float16)],
)
def test_eval_computes_in_the_numbers_that_were_asked_for(
    evaluated: Callable[..., tuple[Kept, Kept]], level: str, autocast: torch.dtype | None, weights: torch.dtype
) -> None:
    given, _ = evaluated("--amp_level", level, "--kernels", "reference")
    assert given["0"].head.weight.dtype is weights
    with given["autocast"]():
        assert torch.is_autocast_enabled("cpu") is (autocast is not None)
        assert autocast is None or torch.get_autocast_dtype("cpu") is autocast


def test_eval_rebuilds_network_preprocessing_and_images(evaluated: Callable[..., tuple[Kept, Kept]]) -> None:
    given, loader = evaluated("--batch_size", "7", "--num_parallel_workers", "0", "--kernels", "reference")
    assert given["0"].approximate_gelu is True  # the checkpoint says so
    assert given["0"].image_size == (28, 28)
    assert torch.equal(given["0"].head.weight, read_weights("q.ckpt").tensors["head.weight"])
    assert (loader["1"], loader["batch_size"], loader["workers"]) == (PREPROCESSING, 7, 0)
    config = Config.from_dict({**HELD, "num_classes": 0})
    of_training = build.training_images(config, lambda _: None)[1]
    assert names(loader["0"]) == names(of_training)
    assert names(evaluated("--seed", "6")[1]["0"]) != names(of_training)


@pytest.mark.parametrize(("level", "dtype"), [("O0", torch.float32), ("bf16", torch.bfloat16), ("O3", None)])
def test_eval_and_infer_pack_what_can_be_packed(
    evaluated: Callable[..., tuple[Kept, Kept]],
    predicted: Callable[..., Any],
    level: str,
    dtype: torch.dtype | None,
) -> None:
    """By default, on a CPU; float16 stays the plain network."""
    for network in (evaluated("--amp_level", level)[0]["0"], predicted("--amp_level", level)[0].model):
        assert isinstance(network, PackedNetwork) is (dtype is not None)
        assert dtype is None or network.dtype is dtype
        assert dtype is None or network.network.approximate_gelu is True


def test_eval_prints_and_writes_each_number_under_its_name(
    evaluated: Callable[..., tuple[Kept, Kept]], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated("--output", "r.json")
    results = {"Loss": 1.0, "Top1-Acc": 0.5, "Top5-Acc": 0.75}
    assert capsys.readouterr().out.endswith(f" images, measured in O0 on cpu\neval results: {results}\n")
    assert json.loads(Path("r.json").read_text(encoding="utf-8")) == results


@pytest.fixture
def predicted(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[TorchPredictor, infer.InferenceJob]]:
    """`predicted(*words)`: the command infer up to where it predicts."""
    for name in ("a.png", "b.png"):
        Image.new("L", (40, 30), 99).save(here / name)

    def run(*words: str) -> tuple[TorchPredictor, infer.InferenceJob]:
        given = keep(monkeypatch, infer, "predict", infer.Tally())
        assert main(["infer", "a.png", "b.png", "--checkpoint", "q.ckpt", "--device_target", "CPU", *words]) == 0
        assert [item.path for item in given["1"]] == ["a.png", "b.png"]
        return given["0"], given["2"]

    return run


@pytest.mark.parametrize(("level", "name"), [("O0", "O0"), ("bf16", "bf16"), ("O3", "O3")])
def test_infer_computes_in_the_numbers_that_were_asked_for(
    predicted: Callable[..., Any], level: str, name: str
) -> None:
    predictor, _ = predicted("--amp_level", level, "--kernels", "reference")
    assert predictor.precision.name == name
    assert predictor.model.head.weight.dtype is (torch.float16 if level == "O3" else torch.float32)


def test_infer_rebuilds_network_and_preprocessing(predicted: Callable[..., Any]) -> None:
    predictor, job = predicted("--kernels", "reference")
    assert predictor.model.approximate_gelu is True
    assert (predictor.preprocessing, predictor.classes) == (PREPROCESSING, tuple(CLASSES))
    assert (job.output, job.format, job.top_k, job.errors) == ("predictions.json", "json", 0, "")
    assert (job.resume, job.unique, job.shard, job.batch_size) == (False, False, (1, 1), infer.BATCH_SIZE)


def test_infer_hands_on_its_options(predicted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "usable_workers", lambda workers: workers)
    words = "--output p.csv --top_k 3 --errors e.jsonl --resume --shard 2/5 --batch_size 4 --workers 6"
    _, job = predicted(*words.split())
    assert (job.output, job.format, job.top_k, job.errors) == ("p.csv", "csv", 3, "e.jsonl")
    assert (job.resume, job.shard, job.batch_size, job.workers) == (True, (2, 5), 4, 6)
    found = job.fingerprint()
    assert (found["top_k"], found["shard"], found["amp_level"], found["num_classes"]) == (3, [2, 5], "", "")
    assert found["preprocessing"] == PREPROCESSING.to_dict()
    _, job = predicted("--format", "jsonl", "--amp_level", "bf16")
    assert (job.output, job.format, job.fingerprint()["amp_level"]) == ("predictions.jsonl", "jsonl", "bf16")


def test_what_infer_remembers_of_a_checkpoint_is_its_content(predicted: Callable[..., Any], here: Path) -> None:
    before = predicted()[1].fingerprint()
    assert predicted()[1].fingerprint() == before
    (here / "q.ckpt").rename(here / "moved.ckpt")
    write_checkpoint(here / "q.ckpt", seed=1)
    after = predicted()[1].fingerprint()
    assert after["checkpoint"] != before["checkpoint"]
    assert {name: value for name, value in after.items() if name != "checkpoint"} == {
        name: value for name, value in before.items() if name != "checkpoint"
    }


def test_infer_does_not_resume_with_other_weights(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "photos").mkdir()
    for number in range(6):
        Image.new("L", (40, 30), 40 * number).save(here / f"photos/{number}.png")
    line = [
        "infer",
        "photos",
        "--checkpoint",
        "q.ckpt",
        "--device_target",
        "CPU",
        "--workers",
        "0",
        "--batch_size",
        "2",
    ]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(infer, "_name", stop)
        (here / "photos/5.png").write_bytes(b"broken")
        assert main(line) == 130
    write_checkpoint(here / "q.ckpt", seed=1)
    assert main([*line, "--resume"]) == 2
    assert "had another checkpoint" in capsys.readouterr().err
    write_checkpoint(here / "q.ckpt", seed=0)
    assert main([*line, "--resume"]) == 1
    assert "4 from an earlier run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["torch", "openvino", "onnxruntime"])
def test_infer_predicts_in_the_runtime_that_was_asked_for(
    predicted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = object()
    given = keep(monkeypatch, predictors, "_converted", other)
    monkeypatch.setattr(predictors, "_missing", lambda _: [])
    monkeypatch.setattr(infer, "fingerprint", lambda *arguments: arguments)
    predictor, job = predicted("--runtime", name)
    assert (predictor is other) is (name != "torch")
    assert given.get("2") == (None if name == "torch" else name)
    assert job.fingerprint()[3].get("runtime") == (None if name == "torch" else name)


@pytest.fixture
def exported(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kept]:
    """`exported(*words)`: the command export up to where the file is written."""

    def run(*words: str) -> Kept:
        given = keep(monkeypatch, export, "export_model", Exported(Path("x"), None, "not verified"))
        assert main(["export", "--pretrained", str(here / "q.ckpt"), "--file_format", "ONNX", *words]) == 0
        return given

    return run


def test_export_hands_on_its_options(exported: Callable[..., Kept]) -> None:
    given = exported("--output", "out", "--precision", "fp16", "--batch", "3", "--preprocessing", "inside")
    assert given["kind"] == Kind("fp16", 3, dynamic_size=False, normalised_inside=True)
    assert (given["1"], given["file_format"]) == (Path("out/t2t_vit_quickstart_fp16.onnx"), "ONNX")
    assert given["arch"] == "t2t_vit_quickstart"
    predictor, evidence = given["0"], given["evidence"]
    assert (predictor.model.approximate_gelu, predictor.preprocessing) == (True, PREPROCESSING)
    assert (predictor.precision.name, predictor.classes) == ("O0", tuple(CLASSES))
    assert (len(evidence.images), evidence.calibration) == (30, None)  # of the checkpoint's own subset, all
    given = exported("--dynamic_size")
    assert (given["kind"], len(given["evidence"].images)) == (Kind("fp32", 0, dynamic_size=True), 12)


def test_export_compares_on_validation_images_and_calibrates_on_training_images(exported: Callable[..., Kept]) -> None:
    evidence = exported("--precision", "int8", "--calibration", "9")["evidence"]
    config = Config.from_dict({**HELD, "num_classes": 0})
    train_images, val_images = build.training_images(config, lambda _: None)
    assert torch.equal(evidence.images, torch.stack([PREPROCESSING(val_images.read(number)) for number in range(30)]))
    assert evidence.targets.tolist() == val_images.targets.tolist()
    expected = [PREPROCESSING(train_images.read(number)) for number in build.some_images(train_images, 9)]
    assert torch.equal(evidence.calibration, torch.stack(expected))


def test_export_counts_right_answers_only_where_the_classes_are_the_networks(
    exported: Callable[..., Kept], here: Path
) -> None:
    held = torch.load(here / "q.ckpt", weights_only=True)
    torch.save(held | {"classes": [f"other {number}" for number in range(10)]}, here / "q.ckpt")
    assert exported()["evidence"].targets is None


ROOTS = {"ckpt_root_dir": "c", "best_ckpt_root_dir": "b", "summary_root_dir": "s", "logs_root_dir": "l"}
RUN: dict[str, object] = {
    "arch": "t2t_vit_quickstart", "image_size": 28, "in_chans": 1, "mean": 0.5, "std": 0.5, "dataset": "FashionMNIST",
    "train_num_samples": 36, "val_num_samples": 20, "batch_size": 4, "accumulation_step": 2,
    "num_parallel_workers": 0, "pynative_mode": True, "device_target": "CPU", "amp_level": "bf16", "with_ema": True,
    "ema_decay": 0.5, "epochs": 6, "cooldown_epochs": 2, "start_epoch": 1, "max_steps": 9, "eval_every_epochs": 3,
    "seed": 11, "skipped_steps_limit": 13, "ckpt_keep_num": 3, "best_ckpt_num": 2, "ckpt_save_every_step": 17,
    "ckpt_save_every_seconds": 19, "print_loss_every": 5, "summary_loss_collect_freq": 7, "lr_scheduler": "exp_lr",
    "model_postfix": "_x", **ROOTS,
}  # fmt: skip


@pytest.fixture
def trained(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kept]:
    """`trained(**keys)`: the command train up to where the loop begins."""

    def run(**keys: object) -> Kept:
        given = keep(monkeypatch, train, "train")
        monkeypatch.setattr(train, "report_run", lambda *_: None)
        monkeypatch.chdir(here)
        assert main(["train", *(f"--{name}={value}" for name, value in (RUN | keys).items())]) == 0
        return given

    return run


def callback(given: Kept, kind: type) -> Any:
    (found,) = [one for one in given["callbacks"] if isinstance(one, kind)]
    return found


def test_train_hands_on_when_a_run_begins_evaluates_and_ends(trained: Callable[..., Kept]) -> None:
    given = trained()
    state, validation = given["3"], given["validation"]
    assert (state.updates_per_epoch, state.epochs, state.step, state.last_step) == (4, 8, 4, 13)
    assert (given["seed"], given["rank"]) == (11, 0)
    assert (given["2"].name, given["2"].epochs, given["2"].updates_per_epoch) == ("exp_lr", 6, 4)
    step = given["0"]
    assert validation.every_epochs == 3
    assert validation.weights["raw"] is step.model
    assert validation.weights["ema"] is step.ema.module
    for autocast in (validation.autocast, step.autocast):
        with autocast():
            assert torch.get_autocast_dtype("cpu") is torch.bfloat16 and torch.is_autocast_enabled("cpu")
    assert list(trained(with_ema=False, model_postfix="_y")["validation"].weights) == ["raw"]


def test_train_hands_on_the_average_of_epochs(trained: Callable[..., Kept]) -> None:
    given = trained(with_ema=False, model_average="last_k")
    average = given["average"]
    assert given["0"].ema is None
    assert given["validation"].average is average is callback(given, Checkpoints)._trained.average
    assert given["validation"].weights["ema"] is average.module
    assert list(callback(given, Checkpoints).best) == ["raw", "ema"]


def test_images_of_several_sizes_have_no_utilisation(
    trained: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "utilisation", lambda *_: Utilisation(10, 1000.0))
    assert callback(trained(), Journal)._whole._instruments.utilisation is not None
    given = trained(crop_schedule="20:0.5,28:1.0", model_postfix="_y")
    assert callback(given, Journal)._whole._instruments.utilisation is None


def test_train_hands_on_what_follows_a_run(trained: Callable[..., Kept], here: Path) -> None:
    given = trained()
    assert callback(given, StopOnDivergence).limit == 13
    assert callback(given, Journal)._every == 5
    assert callback(given, Summary)._every == 7
    kept = callback(given, Checkpoints)
    assert (kept._keep_num, kept._every_steps, kept._every_seconds) == (3, 17, 19)
    assert {name: (best.folder, best.size) for name, best in kept.best.items()} == {
        "raw": (Path("b/t2t_vit_quickstart_x"), 2),
        "ema": (Path("b/t2t_vit_quickstart_x/ema"), 2),
    }
    assert kept._folder == Path("c/t2t_vit_quickstart_x")
    assert kept._trained.ema is given["0"].ema
    assert kept._identity.config["seed"] == 11
    assert kept._identity.data == {
        "train_images": 36,
        "val_images": 20,
        "images_per_update": 8,
        "updates_per_epoch": 4,
        "processes": 1,
    }
    assert (here / "l/t2t_vit_quickstart_x/run.json").exists()


def test_names_of_an_update_are_those_of_its_images(trained: Callable[..., Kept]) -> None:
    given = trained()
    loader = given["1"]
    named = callback(given, StopOnDivergence)._names(6)  # the second update of epoch 1, of batches 2 and 3
    order = loader._requests.order(1)
    assert named == [loader._images.name(int(number)) for number in order[8:16]]


def test_train_starts_from_weights_and_keeps_their_head(trained: Callable[..., Kept]) -> None:
    model = trained(pretrained="q.ckpt", disable_approximate_gelu=False)["0"].model
    tensors = read_weights("q.ckpt").tensors
    assert model.approximate_gelu is True
    assert torch.equal(model.head.weight, tensors["head.weight"])
    assert torch.equal(model.blocks[1].mlp.fc1.weight, tensors["blocks.1.mlp.fc1.weight"])


def test_each_root_has_its_folder() -> None:
    config = Config(arch="t2t_vit_7", model_postfix="_z", **ROOTS)
    folders = Folders.of([getattr(config, key) for key in ROOT_KEYS], config.run_name)
    assert (folders.checkpoints, folders.best) == (Path("c/t2t_vit_7_z"), Path("b/t2t_vit_7_z"))
    assert (folders.summary, folders.logs) == (Path("s/t2t_vit_7_z"), Path("l/t2t_vit_7_z"))


def metrics(top1: float, loss: float = 1.0) -> Metrics:
    return Metrics(loss, top1, 1.0, 8)


@pytest.mark.parametrize(
    ("raw", "ema", "chosen"),
    [
        (metrics(0.5, loss=2.0), metrics(0.4, loss=1.0), "raw"),
        (metrics(0.4, loss=1.0), metrics(0.5, loss=2.0), "ema"),
        (metrics(0.5, loss=1.0), metrics(0.5, loss=2.0), "ema"),
        (metrics(0.5), None, "raw"),
    ],
)
def test_the_better_weights_are_reported(raw: Metrics, ema: Metrics | None, chosen: str) -> None:
    assert better({"raw": raw} | ({} if ema is None else {"ema": ema}), "top1") == chosen


def test_the_report_is_of_the_weights_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    given = keep(monkeypatch, train, "collect", "outcomes")
    monkeypatch.setattr(train, "details", lambda outcomes, _: {"of": outcomes})
    answers = keep(monkeypatch, train, "write_answers")
    written = keep(monkeypatch, train, "write_json")
    monkeypatch.setattr(train, "write_report", lambda *_: None)
    state = State(4, 2, 8, step=8)
    state.record({"raw": Metrics(0.1, 0.2, 0.3, 4), "ema": Metrics(0.5, 0.6, 0.7, 8)})
    loader = object.__new__(EvalLoader)
    loader.numbers, loader.unreadable = list(range(8)), {8: "it is broken"}
    validation = train.Validation(loader, {"raw": "raw weights", "ema": "averaged weights"})  # type: ignore[arg-type]
    monkeypatch.setattr(train, "finish", lambda _: None)
    run = Run(RunMark.new("a"), Folders.of("cbsl", "a"))
    job = train.Job(Config(), train.Processes(), *[None] * 2, run, None, print)  # type: ignore[arg-type]
    train.report_run(job, Ending(state, "ema"), validation, range(9))  # type: ignore[arg-type]
    assert (given["0"], given["1"], list(given["2"]), given["3"]) == ("averaged weights", loader, list(range(8)), 9)
    assert list(given["unreadable"]) == [8]
    assert answers["0"] == run.folders.logs / "answers.npy" and (answers["1"], list(answers["2"])) == (
        "outcomes",
        list(range(9)),
    )
    assert written["1"] == {
        "step": 8,
        "epoch": 2,
        "weights": "ema",
        "scores": {
            "raw": {"loss": 0.1, "top1": 0.2, "top5": 0.3, "count": 4},
            "ema": {"loss": 0.5, "top1": 0.6, "top5": 0.7, "count": 8},
        },
        "of": "outcomes",
    }


def test_trackers_get_the_run_and_its_settings(monkeypatch: pytest.MonkeyPatch, trained: Callable[..., Kept]) -> None:
    given = keep(monkeypatch, callbacks, "WandbTracker")
    monkeypatch.setattr(train, "check_installed", lambda _: None)
    trained(tracker="wandb")
    assert (given["0"], given["1"]) == (Path("l/t2t_vit_quickstart_x"), "t2t_vit_quickstart_x")
    assert (given["2"]["seed"], given["goes_on"]) == (11, False)


@pytest.mark.usefixtures("here")
def test_weights_hands_on_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given = keep(monkeypatch, weights, "convert_weights", (read_weights("q.ckpt"), "torch"))
    assert main(["weights", "convert", "q.ckpt", "n.bin", "--format", "torch", "--which", "raw"]) == 0
    assert given == {"0": "q.ckpt", "1": "n.bin", "format": "torch", "which": "raw"}
    shown = keep(monkeypatch, weights, "shown", "")
    assert main(["weights", "show", "q.ckpt", "--which", "ema"]) == 0
    assert shown == {"0": "q.ckpt", "1": "ema"}


MEASURED = evaluation.Evaluated(Metrics(1.0, 0.5, 0.75, 30), "O0 on cpu", "raw", range(30))  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, 1])
def test_quickstart_goes_on_from_what_it_trained(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    folders = Folders(*[Path(name) for name in "cbsl"])
    start = keep(monkeypatch, quickstart, "train_job", Result(here / "q.ckpt", folders, {}))
    measured = keep(monkeypatch, quickstart, "evaluate_weights", MEASURED)
    answers: list[Any] = []

    def predict(predictor: TorchPredictor, items: Any, job: infer.InferenceJob, seen: Callable[[Any], None]) -> None:
        assert torch.equal(predictor.model.head.weight, read_weights("q.ckpt").tensors["head.weight"])
        assert job.output == "runs/quickstart/predictions.json"
        for number, item in enumerate(items):
            answers.append(item)
            seen(_Answer(item, number % 10))

    monkeypatch.setattr(quickstart, "predict", predict)
    exported = keep(monkeypatch, quickstart, "export_weights")
    monkeypatch.setattr(quickstart, "announce", lambda make: make() or code)
    drawn = keep(monkeypatch, quickstart, "draw_pictures")
    assert main(["quickstart", "--seed", "5"]) == code
    assert (start["0"].config.seed, start["0"].config.dataset) == (5, "FashionMNIST")
    assert measured["1"].num_classes == exported["1"].num_classes == 10
    assert (exported["1"].file_format, exported["2"].folder) == ("ONNX", Path("runs/quickstart"))
    assert len(answers) == len(drawn["0"]) == quickstart.SHOWN
    for item, answer in zip(answers, drawn["0"], strict=True):
        assert item.path.endswith(f"_{answer.true}.png")
        assert np.array_equal(np.asarray(Image.open(item.path)), np.asarray(answer.image))
    assert "eval results: {'Loss': 1.0, 'Top1-Acc': 0.5, 'Top5-Acc': 0.75}" in capsys.readouterr().out


class _Answer:
    """A result of infer, as far as quickstart looks at it."""

    def __init__(self, item: Item, index: int) -> None:
        from t2t_vit.inference.item import Prediction

        self.path, self.predictions = item.path, [Prediction(index, CLASSES[index], 0.5)]


def test_norms_are_measured_when_the_log_or_the_summary_shows_them(trained: Callable[..., Kept]) -> None:
    assert callback(trained(), Journal)._recent._instruments.norms._every == [5, 7]
