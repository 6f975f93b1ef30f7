"""Folders as people have them, through the commands: broken images, other names, a data set that changes; each advice
that is printed is followed."""

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]
NAME = "t2t_vit_quickstart"
KEYS = {
    "arch": NAME, "image_size": 32, "layer_decay": 1, "device_target": "CPU", "num_parallel_workers": 0,
    "amp_level": "O0", "batch_size": 8, "epochs": 2, "warmup_length": 1, "pynative_mode": True, "kernels": "reference",
}  # fmt: skip
QUICK = ["train", "finetune", *(f"--{key}={value}" for key, value in KEYS.items())]
BAD = b"no image"


def put(folder: Path, *classes: str, each: int = 8, start: int = 0) -> Path:
    rng = np.random.default_rng(len(str(folder)))
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + each):
            pixels = rng.integers(0, 120, (20, 30, 3)) + np.array([0, 60 * (number % 3), 30 * number])
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: None)
    return command


def logs() -> Path:
    return Path("runs/logs") / f"{NAME}_finetune"


def last() -> Path:
    return max(Path("runs/checkpoints").rglob("*-*_*.ckpt"), key=lambda path: int(path.stem.rpartition("_")[2]))


def content(path: Path) -> dict[str, object]:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def results(out: str) -> dict[str, float]:
    return ast.literal_eval(out.splitlines()[-1].removeprefix("eval results: "))  # type: ignore[no-any-return]


def test_broken_images_are_found_before_the_first_step_and_listed(run: Run) -> None:
    put(Path("data/train"), "a", "b")
    put(Path("data/val"), "a", "b", each=4)
    for name in ("train/a/3.png", "val/b/9.png"):
        Path("data", name).write_bytes(BAD)
    Path("data/val/a/9.png").symlink_to("gone.png")
    code, _, err = run(*QUICK, "--data_url", "data")
    assert code == 0, err
    path = logs() / "bad_images.txt"
    assert (
        "checked 26 images, 23 of them decoded whole: some are unreadable, 1 for training, which replaces "
        f"them and 2 for validation, which leaves them out, all of them listed in {path}" in err
    )
    assert sorted(line.split("\t")[0] for line in path.read_text().splitlines()) == [
        "data/train/a/3.png", "data/val/a/9.png", "data/val/b/9.png",
    ]  # fmt: skip
    metrics = content(last())["metrics"]
    assert metrics["raw"]["count"] == 8  # type: ignore[index]
    evaluation = json.loads((logs() / "evaluation.json").read_text())
    assert (evaluation["count"], evaluation["unreadable"]) == (8, 2)
    code, out, err = run("eval", "--pretrained", str(last()), "--device_target", "CPU", "--num_parallel_workers", "0")
    assert code == 1, err  # done in part
    assert "2 of 10 images could not be read and are not counted" in err
    assert "of 8 images (2 more could not be read), measured in" in out
    assert results(out)["Top1-Acc"] == metrics["raw"]["top1"]  # type: ignore[index]
    # Removed as the list says, the run goes on.
    for line in path.read_text().splitlines():
        Path(line.split("\t")[0]).unlink()
    code, _, err = run(*QUICK, "--data_url", "data", "--resume", "auto", "--epochs", "3")
    assert code == 0, err
    assert "1 of the 16 training images of the run is no longer in data/train (a/3.png)" in err
    assert "2 of the 10 validation images of the run are no longer in data/val" in err


def test_the_next_start_remembers(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path / "cache"))
    put(Path("data"), "a", "b")
    Path("data/a/3.png").write_bytes(BAD)
    code, _, err = run(*QUICK, "--data_url", "data", "--max_steps", "1")
    assert "checked 16 images, 15 of them decoded whole: " in err
    code, _, err = run(*QUICK, "--data_url", "data", "--max_steps", "1", "--model_postfix", "_again")
    assert code == 0, err
    assert "checked 16 images, 15 of them decoded whole, decoded by an earlier start: " in err
    put(Path("data"), "a", each=1, start=3)
    code, _, err = run(*QUICK, "--data_url", "data", "--max_steps", "1", "--model_postfix", "_third")
    assert "checked 16 images, 16 of them decoded whole: all are readable" in err


def test_bad_images_may_be_an_error_that_names_all_and_both_ways_out_work(run: Run) -> None:
    put(Path("data"), "a", "b")
    for i in range(4):
        Path(f"data/a/{i}.png").write_bytes(BAD)
    code, out, err = run(*QUICK, "--data_url", "data", "--bad_images", "error", "--val_split", "0.3")
    assert (code, out) == (2, "")
    assert "4 of 10 images cannot be read" in err or "cannot be read, all of them listed in" in err
    listed = next(Path("runs/logs").rglob("bad_images.txt"))
    assert f"listed in {listed}" in err
    code, _, err = run(*QUICK, "--data_url", "data", "--bad_images", "skip", "--val_split", "0.3", "--max_steps", "1")
    assert code == 0, err
    for line in listed.read_text().splitlines():
        Path(line.split("\t")[0]).unlink()
    code, _, err = run(
        *QUICK, "--data_url", "data", "--bad_images", "error", "--val_split", "0.3", "--model_postfix", "_removed"
    )
    assert code == 0, err


def test_an_image_that_proves_bad_later_stops_and_can_be_removed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As told: the run that stopped goes on without it, and so it would with skip."""
    monkeypatch.setattr("t2t_vit.assembly.images.MOST_DECODED", 0)
    put(Path("data/train"), "a", "b")
    put(Path("data/val"), "a", "b", each=3)
    line = [
        *QUICK,
        "--data_url",
        "data",
        "--ckpt_save_every_step",
        "1",
        "--bad_images",
        "error",
        "--model_postfix",
        "_l",
    ]
    bad = Path("data/val/a/1.png")
    bad.write_bytes(bad.read_bytes()[:80])  # its header is whole
    code, _, err = run(*line)
    assert code == 2
    assert (
        "1 of 6 images cannot be read (data/val/a/1.png: the file is truncated); repair or remove them, or continue"
        in err
    )
    bad.unlink()
    code, _, err = run(*line, "--resume", "auto")
    assert code == 0, err
    assert content(last())["metrics"]["raw"]["count"] == 5  # type: ignore[index]


def test_most_images_broken_is_a_mistake(run: Run) -> None:
    put(Path("data"), "a", "b")
    for i in range(6):
        for name in "ab":
            Path(f"data/{name}/{i}.png").write_bytes(BAD)
    code, _, err = run(*QUICK, "--data_url", "data")
    assert code == 2
    assert "more than half" in err
    put(Path("data"), "b")
    for i in range(8):
        Path(f"data/a/{i}.png").write_bytes(BAD)
    code, _, err = run(*QUICK, "--data_url", "data")
    assert code == 2
    assert "images cannot be read" in err or "none of the training images of class a can be read" in err


@pytest.fixture
def trained(run: Run) -> Path:
    """A run on photos/ of classes a, b and c, of two epochs and one of them done."""
    put(Path("photos"), "a", "b", "c", each=10)
    code, _, err = run(*QUICK, "--data_url", "photos", "--max_steps", "2", "--ckpt_save_every_step", "1")
    assert code == 0, err
    return last()


def go_on(run: Run, *words: str) -> tuple[int, str]:
    code, _, err = run(*QUICK, "--data_url", "photos", "--resume", "auto", "--max_steps", "0", *words)
    return code, err


@pytest.mark.usefixtures("trained")
def test_a_data_set_that_grew_does_not_stop_a_run(run: Run) -> None:
    kept = (logs() / "val_images.txt").read_text()
    put(Path("photos"), "a", "b", "c", each=5, start=10)
    put(Path("photos"), "d")
    code, err = go_on(run)
    assert code == 0, err
    assert "left out, because the run began without them: 23 new images in photos (a/10.png, a/11.png" in err
    assert (logs() / "val_images.txt").read_text() == kept
    # A new run takes them in, as told.
    code, _, err = run(*QUICK, "--data_url", "photos", "--pretrained", str(last()), "--model_postfix", "_new")
    assert code == 0, err
    assert "4 classes" in err


@pytest.mark.usefixtures("trained")
def test_other_classes_without_the_lists_are_a_new_run(run: Run) -> None:
    """num_classes cannot be set in a run that goes on, so it is not advised."""
    shutil.rmtree(logs())
    put(Path("photos"), "d")
    code, err = go_on(run)
    assert code == 2
    assert "its class 3 is none, and now it is 'd'; bring the old classes back" in err
    words = shlex.split(err.partition("begin a new run with ")[2])
    code, _, err = run(*QUICK, "--data_url", "photos", *words)
    assert code == 0, err
    shutil.rmtree("photos/d")
    assert go_on(run)[0] == 0


@pytest.mark.usefixtures("trained")
def test_a_data_set_that_shrank_goes_on_with_the_same_steps(run: Run) -> None:
    """The images that are left are drawn in the same order: only the places of what is gone are taken by others."""
    in_training = (logs() / "train_images.txt").read_text().splitlines()
    for name in (in_training[0], in_training[7]):
        Path("photos", name).unlink()
    code, err = go_on(run)
    assert code == 0, err
    assert f"2 of the {len(in_training)} training images of the run are no longer in photos" in err
    data = content(last())["data"]
    assert data["train_images"] == len(in_training)  # type: ignore[index]
    assert content(last())["step"] == 2 * data["updates_per_epoch"]  # type: ignore[index]


@pytest.mark.usefixtures("trained")
def test_without_its_lists_a_run_is_compared_by_counts(run: Run) -> None:
    for name in ("train_images.txt", "val_images.txt"):
        (logs() / name).unlink()
    put(Path("photos"), "a", each=9, start=10)
    code, err = go_on(run)
    assert code == 2
    assert "training images, there are" in err
    advice = shlex.split(err.strip().rpartition("begin a new run with ")[2])
    code, _, err = run(*QUICK, "--data_url", "photos", "--model_postfix", "_new", *advice)
    assert code == 0, err


def test_a_run_that_was_begun_before_keeps_the_split_of_its_seed(run: Run) -> None:
    put(Path("photos"), "a", "b", each=12)
    split = ["--data_url", "photos", "--max_steps", "1"]
    assert run(*QUICK, *split, "--seed", "5", "--split_seed", "5", "--model_postfix", "_old")[0] == 0
    path = last()
    held = content(path)
    del held["config"]["split_seed"]  # type: ignore[attr-defined]
    torch.save(held, path)
    code, _, err = run("eval", "--pretrained", str(path), "--device_target", "CPU", "--num_parallel_workers", "0")
    assert code == 0, err
    assert "chosen by their names and split_seed 5" in err
    code, _, err = run("train", "--resume", str(path), "--max_steps", "0")
    assert code == 0, err
    assert "split_seed" not in err or "split_seed 5" in err
    # In a new run the seed moves nothing.
    lists = []
    for seed in ("0", "7"):
        assert run(*QUICK, *split, "--seed", seed, "--model_postfix", f"_s{seed}")[0] == 0
        lists.append((Path("runs/logs") / f"{NAME}_s{seed}" / "val_images.txt").read_text())
    assert lists[0] == lists[1]


def test_a_test_folder_is_measured_by_name(run: Run, trained: Path) -> None:
    """A class less, one renamed on disk so that it sorts elsewhere: each image still counts for its own class."""
    whole = evaluated(run, trained, "photos")
    put(Path("less"), "c")
    shutil.rmtree("less/c")
    shutil.copytree("photos/c", "less/c")
    shutil.copytree("photos/a", "less/a")
    part = evaluated(run, trained, "less")
    alone = {name: evaluated(run, trained, f"only_{name}", name) for name in "abc"}
    assert whole["Top1-Acc"] == pytest.approx(sum(one["Top1-Acc"] for one in alone.values()) / 3)
    assert part["Loss"] == pytest.approx((alone["a"]["Loss"] + alone["c"]["Loss"]) / 2, rel=1e-6)
    code, out, err = run("eval", "--pretrained", str(trained), "--num_classes", "3")
    assert code == 0 or "contradicts" not in err
    code, out, err = run("eval", "--pretrained", str(trained), "--num_classes", "2")
    assert (code, out) == (2, "")
    assert "an evaluation never makes a new head; leave --num_classes out" in err


def evaluated(run: Run, checkpoint: Path, folder: str, only: str = "") -> dict[str, float]:
    if only:
        shutil.copytree(f"photos/{only}", f"{folder}/{only}")
    code, out, err = run(
        "eval", "--pretrained", str(checkpoint), "--data_url", folder, "--val_split", "0", "--device_target", "CPU",
        "--num_parallel_workers", "0", "--kernels", "reference",
    )  # fmt: skip
    assert code == 0, err
    assert f"no validation folder in {folder}: all of its images are used" in err
    return results(out)


def test_names_that_are_no_utf8_survive_everywhere(run: Run) -> None:
    root = Path(os.fsdecode(b"d\xe9"))
    put(root, os.fsdecode(b"caf\xe9"), "new\nline", "b b")
    (root / "b b" / os.fsdecode(b"\xfe.png")).write_bytes(BAD)
    code, _, err = run(*QUICK, "--data_url", str(root))
    assert code == 0, err
    for path in logs().iterdir():
        if path.name != "answers.npy":  # numbers alone
            path.read_text(encoding="utf-8")
    assert json.loads((logs() / "run.json").read_text())["classes"] == ["b b", "caf\\udce9", "new\\nline"]
    assert "caf\\udce9" in (logs() / "report.html").read_text(encoding="utf-8")
    (root / os.fsdecode(b"caf\xe9") / "0.png").unlink()
    code, _, err = run(*QUICK, "--data_url", str(root), "--resume", "auto", "--epochs", "3")
    assert code == 0, err
    code, _, err = run("eval", "--pretrained", str(last()), "--device_target", "CPU", "--num_parallel_workers", "0")
    assert code == 1, err


def test_uneven_classes_are_said_with_the_key_that_helps(run: Run) -> None:
    put(Path("data/train"), "a", each=16)
    put(Path("data/train"), "b", each=4)
    put(Path("data/val"), "a", "b", each=2)
    code, _, err = run(*QUICK, "--data_url", "data", "--max_steps", "1")
    assert code == 0, err
    advice = "rare classes may be recognised less often: --class_balance weights (or sampling) helps"
    assert f"training images per class: 4 (b) to 16 (a); {advice}" in err
    code, _, err = run(
        *QUICK, "--data_url", "data", "--max_steps", "1", "--class_balance", "weights", "--model_postfix", "_w"
    )
    assert code == 0, err
    assert advice not in err
    Path("data/train/a/0.png").unlink()
    code, _, err = run(*QUICK, "--data_url", "data", "--max_steps", "1", "--model_postfix", "_less")
    assert code == 0, err
    assert advice not in err


ROOT = Path(__file__).parents[2]
ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


@pytest.mark.thorough
def test_two_processes_find_and_skip_what_one_does(run: Run, tmp_path: Path) -> None:
    put(Path("data/train"), "a", "b")
    put(Path("data/val"), "a", "b", each=5)
    for name in ("train/a/2.png", "train/b/5.png", "val/a/1.png", "val/b/4.png"):
        Path("data", name).write_bytes(BAD)
    keys = ["--data_url", "data", "--cache", "64MiB"]
    code, _, err = run(*QUICK, *keys, "--model_postfix", "_one")
    assert code == 0, err
    line = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "train.py")]
    halves = ["--batch_size", "4", "--model_postfix", "_two"]
    done = subprocess.run(
        [sys.executable, *line, *QUICK[1:], *keys, *halves],
        cwd=tmp_path, env=ALONE | {"OMP_NUM_THREADS": "1"}, text=True, capture_output=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (Path("runs/logs") / f"{NAME}{postfix}" for postfix in ("_one", "_two"))
    assert (one / "bad_images.txt").read_text() == (two / "bad_images.txt").read_text()
    assert len((two / "bad_images.txt").read_text().splitlines()) == 4
    found = [json.loads((folder / "evaluation.json").read_text()) for folder in (one, two)]
    assert [(each["count"], each["unreadable"]) for each in found] == [(8, 2), (8, 2)]
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], abs=1e-4)
    assert "checked 26 images, 22 of them decoded whole" in done.stderr
