"""Training, evaluating and predicting from Python: quiet, interruptible, with objects and errors of Python's."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import t2t_vit
from t2t_vit.api import options_of
from t2t_vit.training.journal import History

SMALL: dict[str, Any] = {
    "train_num_samples": 40, "val_num_samples": 30, "epochs": 2, "warmup_length": 0, "batch_size": 8,
    "num_parallel_workers": 0, "pynative_mode": True, "device": "cpu", "print_loss_every": 1,
    "summary_root_dir": "r/s", "ckpt_root_dir": "r/c", "best_ckpt_root_dir": "r/b", "logs_root_dir": "r/l",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("api")
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(place)
    torch.set_num_threads(1)
    yield place
    os.chdir(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(place: Path) -> t2t_vit.TrainedRun:
    assert place.is_dir()
    return t2t_vit.train("quickstart", **SMALL)


def test_a_run_is_an_object_with_metrics_paths_and_history(run: t2t_vit.TrainedRun) -> None:
    assert run.metrics.count == 30 and 0 <= run.metrics.macro_f1 <= 1
    for path in (run.checkpoint, run.best, run.folder, run.report):
        assert path is not None and path.exists()
    epochs = [row for row in run.history if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2]
    column = {"raw": "val_top1", "ema": "ema_top1"}[run.weights]
    assert epochs[-1][column] == run.metrics.top1


def test_nothing_is_printed_unless_it_is_asked_for(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet = t2t_vit.train("quickstart", **SMALL, model_postfix="_quiet")
    t2t_vit.evaluate(quiet.checkpoint, num_parallel_workers=0, device="cpu")
    assert capfd.readouterr() == ("", "")
    log = (place / quiet.folder / "train.log").read_text()
    t2t_vit.train("quickstart", **SMALL, model_postfix="_loud", verbose=True)
    out, err = capfd.readouterr()
    assert out == "" and "epoch 2/2  step 10" in err
    assert [line.split("loss")[0] for line in log.splitlines() if line.startswith("epoch")] == [
        line.split("loss")[0] for line in err.splitlines() if line.startswith("epoch")
    ]


def test_an_evaluation_knows_its_classes(run: t2t_vit.TrainedRun, tmp_path: Path) -> None:
    page = tmp_path / "found.html"
    found = t2t_vit.evaluate(run.checkpoint, report=page, num_parallel_workers=0, device="cpu", batch_size=7)
    assert found.metrics.top1 == run.metrics.top1 and found.metrics.count == 30
    assert len(found.classes) == len(found.class_scores) == len(found.confusion_matrix) == 10
    assert sum(map(sum, found.confusion_matrix)) == 30
    assert sum(row[number] for number, row in enumerate(found.confusion_matrix)) == round(found.metrics.top1 * 30)
    assert (found.measured, found.report) == ("O0 on cpu", page) and "Confusion" in page.read_text()


def test_an_evaluation_counts_what_it_could_not_read(run: t2t_vit.TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    Image.new("L", (28, 28), 200).save(tmp_path / "bag/a.png")
    (tmp_path / "bag/b.png").write_bytes(b"no image")
    keys = {"dataset": "ImageNet", "data_url": tmp_path, "val_split": 0, "num_parallel_workers": 0, "device": "cpu"}
    found = t2t_vit.evaluate(run.checkpoint, **keys)
    assert (found.metrics.count, found.unreadable) == (1, 1)


def test_predictions_by_name_and_many_at_once(run: t2t_vit.TrainedRun, tmp_path: Path) -> None:
    Image.new("L", (28, 28), 200).save(tmp_path / "a.png")
    assert run.best is not None
    one = t2t_vit.predict(tmp_path / "a.png", run.best)
    assert one.name in t2t_vit.evaluate(run.best, num_parallel_workers=0, device="cpu").classes
    array = np.full((28, 28), 200, np.uint8)
    ranked = t2t_vit.predict(array, run.best, top_k=3)
    assert t2t_vit.predict([array], run.best, top_k=3) == [ranked] and ranked[0] == one and len(ranked) == 3
    assert run.predictor().predict(array) == one


@pytest.mark.parametrize(
    ("recipe", "keys", "sentence"),
    [
        ("quickstart", {"lr": 0.1}, "unknown key 'lr'; did you mean 'base_lr'?"),
        ("quickstart", {"epochs": 1.5}, "epochs takes a whole number of at least 1; not '1.5'"),
        ("quickstart", {"epochs": "many"}, "epochs takes a whole number"),
        ("quickstart", {"device": "tpu"}, "device takes cpu, cuda"),
        ("gone.yaml", {}, "configuration gone.yaml does not exist"),
        ("", {"data_url": "nowhere"}, "nowhere"),
        ("quickstart", {"resume": "gone.ckpt"}, "gone.ckpt: no such file"),
    ],
)
def test_mistakes_are_user_errors(place: Path, recipe: str, keys: dict[str, Any], sentence: str) -> None:
    assert place.is_dir()
    with pytest.raises(t2t_vit.UserError, match=sentence.replace("?", r"\?")):
        t2t_vit.train(recipe, **keys)
    with pytest.raises(t2t_vit.UserError):
        t2t_vit.evaluate("gone.ckpt")
    with pytest.raises(t2t_vit.UserError):
        t2t_vit.predict("a.png", "gone.ckpt")


def test_values_as_python_and_as_the_command_line_have_them() -> None:
    keys = {
        "data_url": Path("photos"), "base_lr": "5e-4", "epochs": np.int64(3), "mean": [0.1, 0.2, 0.3],
        "image_size": (28, 32), "with_ema": "yes", "beta": np.array([0.9, 0.95]), "device": torch.device("cpu"),
    }  # fmt: skip
    assert dict(options_of("train", "", keys).line) == {
        "data_url": "photos", "base_lr": 5e-4, "epochs": 3, "mean": (0.1, 0.2, 0.3), "image_size": (28, 32),
        "with_ema": True, "beta": (0.9, 0.95), "device_target": "CPU",
    }  # fmt: skip


def test_memory_that_runs_out_is_a_user_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    assert place.is_dir()
    monkeypatch.setattr("t2t_vit.api.train_job", full)
    with pytest.raises(t2t_vit.UserError, match=r"out of memory on the device \(2.00 GiB more were requested\)"):
        t2t_vit.train("quickstart", **SMALL)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]


def test_an_interrupt_saves_and_is_a_keyboard_interrupt_and_the_run_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added, add, before = [], History.add, handlers()

    def interrupt(self: History, row: Any) -> None:
        add(self, row)
        added.append(row)
        if len(added) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(History, "add", interrupt)
    numbers = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt, match='resume="auto" continues'):
        t2t_vit.train("quickstart", **SMALL, model_postfix="_stopped")
    assert handlers() == before and torch.equal(torch.get_rng_state(), numbers)
    (saved,) = Path("r/c/t2t_vit_s_4_stopped").glob("*-*.ckpt")
    assert saved.name == "t2t_vit_s_4-1_3.ckpt" and place in saved.resolve().parents
    run = t2t_vit.train("quickstart", **SMALL, model_postfix="_stopped", resume="auto")
    assert run.checkpoint.name == "t2t_vit_s_4-2_10.ckpt"
    whole = t2t_vit.train("quickstart", **SMALL, model_postfix="_whole")
    ours, theirs = (torch.load(each.checkpoint, weights_only=True)["model"] for each in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_program_without_a_guard_may_have_workers(place: Path) -> None:
    keys = SMALL | {"num_parallel_workers": 2, "model_postfix": "_workers"}
    (place / "program.py").write_text(f"import t2t_vit\nprint(t2t_vit.train('quickstart', **{keys!r}).metrics.count)\n")
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=place, capture_output=True, text=True, check=False, timeout=280
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "30\n", "")


def test_from_scratch_on_a_folder(place: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        path = place / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 99 + 100 * (number % 2), (64, 64, 3), dtype=np.uint8)).save(path)
    roots = {name: SMALL[name] for name in SMALL if name.endswith("root_dir")}
    run = t2t_vit.train("scratch", data_url=place / "photos", epochs=2, device="cpu", **roots)
    assert run.metrics.count == 4 and run.best is not None
    image = t2t_vit.predict(place / "photos/a/0.png", run.best, top_k=2)
    assert {answer.name for answer in image} == {"a", "b"}
    again = t2t_vit.train("scratch", data_url=place / "photos", epochs=2, device="cpu", **roots)
    assert again.folder != run.folder and again.metrics == run.metrics


def test_in_another_thread(place: Path, run: t2t_vit.TrainedRun) -> None:
    assert place.is_dir()
    found: list[Any] = []
    work = threading.Thread(target=lambda: found.append(t2t_vit.train("quickstart", **SMALL, model_postfix="_thread")))
    work.start()
    work.join()
    assert found[0].metrics == run.metrics


def test_importing_the_package_stays_cheap() -> None:
    code = "import sys, t2t_vit; t2t_vit.UserError; print('torch' in sys.modules, 't2t_vit.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
