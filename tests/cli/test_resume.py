"""Runs that are stopped and continued: the command in this process, killed by an exception that nothing expects."""

import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from t2t_vit.cli.main import main
from t2t_vit.report.run_files import ROOT_KEYS
from t2t_vit.settings.resolution import CHOICE, FREE, REFUSED
from t2t_vit.settings.schema import KEYS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from kill import differences_of_runs, history, trial

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "t2t_vit_quickstart"
# Everything random is on. 32 images, 2 batches of 4 an update: 4 updates an epoch, 10 in all, the last epoch cut short.
KEYS_OF_RUN: dict[str, object] = {
    "arch": NAME,
    "image_size": 28,
    "in_chans": 1,
    "mean": 0.5,
    "std": 0.5,
    "dataset": "FashionMNIST",
    "train_num_samples": 35,
    "val_num_samples": 20,
    "epochs": 3,
    "max_steps": 10,
    "warmup_length": 1,
    "batch_size": 4,
    "accumulation_step": 2,
    "num_parallel_workers": 0,
    "pynative_mode": True,
    "device_target": "CPU",
    "amp_level": "O0",
    "with_ema": True,
    "ema_decay": 0.8,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "re_prob": 0.5,
    "mixup": 0.8,
    "cutmix": 1,
    "drop": 0.1,
    "drop_path": 0.1,
    "print_loss_every": 3,
    "summary_loss_collect_freq": 3,
    "best_ckpt_num": 1,
}

# The network's name is the folder's; all else the checkpoint knows.
AUTO = {"arch": NAME, "resume": "auto"}


class Killed(BaseException):
    """Stands for SIGKILL: no code of the program knows it, so nothing is saved or told."""


@dataclass(frozen=True)
class Run:
    """`run(place, kill_after=step, **keys)`: the command in `place`, what it said; code -9 where it was killed."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(
        self, place: Path, *, kill_after: int = 0, kill_in: str = "on_step", **keys: object
    ) -> tuple[int, str]:
        place.mkdir(exist_ok=True)
        self.monkeypatch.chdir(place)
        self.capsys.readouterr()
        line = [f"--{key}={value}" for key, value in keys.items()]
        with self.monkeypatch.context() as patch:
            if kill_after:
                patch.setattr(f"t2t_vit.training.callbacks.Callbacks.{kill_in}", _killing(kill_in, kill_after))
            try:
                code = main(["train", *line])
            except Killed:
                code = -9
        return code, self.capsys.readouterr().err


def _killing(method: str, after: int) -> Callable[..., None]:
    from t2t_vit.training.callbacks import Callbacks

    original = getattr(Callbacks, method)

    def killing(self: Callbacks, state: Any, *others: Any) -> None:
        original(self, state, *others)
        if state.step == after:
            raise Killed

    return killing


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("t2t_vit.training.run.token_hex", lambda _: "1d")  # equal runs then make equal files
    return Run(monkeypatch, capsys)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture
def straight(base: Path, run: Run) -> Path:
    """A run of 10 steps that nobody disturbed, with a checkpoint of each."""
    place = base / "straight"
    if not place.exists():
        code, err = run(place, **KEYS_OF_RUN, ckpt_save_every_step=1)
        assert code == 0, err
    return place


@pytest.fixture
def stopped(base: Path, run: Run) -> Path:
    """A run that was killed after step 7, with a checkpoint of each step so far."""
    place = base / "stopped"
    if not place.exists():
        code, _ = run(place, **KEYS_OF_RUN, ckpt_save_every_step=1, kill_after=7)
        assert code == -9
    return place


def copied(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "copy")


def checkpoint(place: Path, step: int) -> Path:
    (path,) = place.glob(f"runs/checkpoints/*/*_{step}.ckpt")
    return path


def test_a_run_that_is_killed_after_every_step_is_the_same_run(run: Run, straight: Path, tmp_path: Path) -> None:
    place = tmp_path / "killed"
    for step in range(1, 10):
        code, err = run(place, **KEYS_OF_RUN, ckpt_save_every_step=1, resume="auto", kill_after=step)
        assert code == -9
        told = f"step {step - 1}\n" if step > 1 else "starting from the beginning"
        assert told in err
    assert run(place, **KEYS_OF_RUN, ckpt_save_every_step=1, resume="auto")[0] == 0
    assert differences_of_runs(straight, place) == []


@pytest.mark.parametrize(
    ("kill_in", "after"),
    [("on_step", 4), ("on_step", 7), ("on_epoch", 4), ("on_epoch", 8), ("on_step", 10), ("on_epoch", 10)],
)
def test_steps_that_were_lost_are_made_again(
    run: Run, straight: Path, tmp_path: Path, kill_in: str, after: int
) -> None:
    """Saved every second step, killed where an epoch ends: before its evaluation, after it, and after the last one."""
    place = tmp_path / "killed"
    keys = {**KEYS_OF_RUN, "ckpt_save_every_step": 2}
    assert run(place, **keys, kill_after=after, kill_in=kill_in)[0] == -9
    code, err = run(place, **AUTO)
    assert code == 0, err
    assert f"step {after // 2 * 2}\n" in err
    lost = [text for text in differences_of_runs(straight, place) if "only in one" not in text]
    assert all("config.ckpt_save_every_step" in text for text in lost), lost
    histories = [(root / f"runs/logs/{NAME}/history.csv").read_text().count("\n") for root in (straight, place)]
    assert histories[0] == histories[1]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("tricks", "after"),
    [
        ({"model_average": "last_k", "average_epochs": 2, "crop_schedule": "20:0.3,24x28:0.6,28:1.0"}, 4),
        (
            {
                "model_average": "swa",
                "average_share": 0.7,
                "lr_scheduler": "wsd_lr",
                "repeated_augment": 3,
                "loss": "bce",
            },
            9,
        ),
    ],
)
def test_runs_with_tricks_go_on_exactly(run: Run, tmp_path: Path, tricks: dict[str, object], after: int) -> None:
    """Killed after a step that is the last of its epoch, or amid one, and saved at every second step."""
    keys = {**KEYS_OF_RUN, "with_ema": False, "max_steps": 0, "ckpt_save_every_step": 2, **tricks}
    straight, place = tmp_path / "straight", tmp_path / "killed"
    code, err = run(straight, **keys)
    assert code == 0, err
    assert run(place, **keys, kill_after=after)[0] == -9
    code, err = run(place, **AUTO)
    assert code == 0, err
    assert f"step {after // 2 * 2}\n" in err
    assert [text for text in differences_of_runs(straight, place) if "only in one" not in text] == []
    assert len(list(straight.glob("runs/checkpoints/*/*_12.ckpt"))) == 1


@pytest.mark.parametrize(
    "keys",
    [
        {"distill": "soft", "distill_temperature": 2},
        pytest.param({"distill": "hard"}, marks=pytest.mark.thorough),
        {"distill": "dense", "mix_token": 1, "mixup": 0, "cutmix": 0},
    ],
)
def test_a_killed_run_with_a_teacher_is_the_same_run(
    run: Run, straight: Path, tmp_path: Path, keys: dict[str, object]
) -> None:
    """Also in bf16, and where the teacher lies somewhere else by then."""
    teacher, moved = tmp_path / "teacher.ckpt", tmp_path / "moved.ckpt"
    shutil.copy(checkpoint(straight, 10), teacher)
    keys = {**KEYS_OF_RUN, "amp_level": "bf16", "ckpt_save_every_step": 2, "max_steps": 6, "base_lr": 0.01, **keys}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, err = run(whole, **keys, teacher=teacher)
    assert code == 0, err
    assert run(killed, **keys, teacher=teacher, kill_after=3)[0] == -9
    teacher.rename(moved)
    code, err = run(killed, **AUTO)
    assert code == 2 and err == f"t2t-vit: teacher {teacher}: no such file; give its file with --teacher\n"
    shutil.copy(checkpoint(straight, 9), teacher)
    code, err = run(killed, **AUTO)
    assert code == 2 and err.count("\n") == 1
    assert f"{teacher} is not the teacher that it began with; give the file of that teacher with --teacher" in err
    code, err = run(killed, **AUTO, teacher=moved)
    assert code == 0, err
    lost = [text for text in differences_of_runs(whole, killed) if "only in one" not in text]
    assert all("config.teacher" in text for text in lost), lost


def test_the_best_files_are_the_same_bytes(run: Run, straight: Path, stopped: Path, tmp_path: Path) -> None:
    place = copied(stopped, tmp_path)
    assert run(place, **AUTO)[0] == 0
    for path in straight.glob("runs/best_checkpoints/**/*.ckpt"):
        assert (place / path.relative_to(straight)).read_bytes() == path.read_bytes()
    assert differences_of_runs(straight, place) == []


def test_a_killed_write_leaves_the_checkpoint_before(
    run: Run, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between writing and renaming; what lies about then is swept away."""
    place, original, calls = tmp_path / "killed", os.replace, iter(range(10**6))
    keys = {**KEYS_OF_RUN, "ckpt_save_every_step": 1}

    def dies(source: Any, target: Any) -> None:
        if str(target).endswith("_6.ckpt") and next(calls) == 0:
            raise Killed
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing up
        assert run(place, **keys)[0] == -9
    assert list(place.rglob("*.part"))
    code, err = run(place, **AUTO)
    assert code == 0
    assert "epoch 2, step 5\n" in err
    assert not list(place.rglob("*.part"))
    assert [text for text in differences_of_runs(straight, place) if "only in one" not in text] == []


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_checkpoint_is_passed_over(
    run: Run, straight: Path, stopped: Path, tmp_path: Path, seed: int
) -> None:
    """Cut short at a random byte, or with a bit changed."""
    place, rng = copied(stopped, tmp_path), random.Random(seed)
    path = checkpoint(place, 7)
    data = bytearray(path.read_bytes())
    if seed % 2:
        with_bit = rng.randrange(
            len(data) // 3, len(data) // 3 * 2
        )  # in the tensors; elsewhere it may be of no account
        data[with_bit] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    else:
        path.write_bytes(data[: rng.randrange(len(data))])
    code, err = run(place, **AUTO)
    assert code == 0, err
    assert re.search(r"^skipped for an older one: .*_7\.ckpt: is ", err, re.MULTILINE)
    assert "epoch 2, step 6\n" in err
    assert differences_of_runs(straight, place) == []


def test_the_same_by_name_from_another_folder_goes_on_where_the_file_lies(
    run: Run, straight: Path, stopped: Path, tmp_path: Path
) -> None:
    """As the launchers' --checkpoint says it. The folders that the file names are relative, and not there."""
    place = copied(stopped, tmp_path)
    keys = {"pretrained": checkpoint(place, 7), "exclude_epoch_state": False}
    code, err = run(tmp_path / "new", **keys)
    assert code == 0, err
    assert err.startswith(f"continuing the run {NAME} from {checkpoint(place, 7)}, epoch 2, step 7\n")
    assert not list((tmp_path / "new").iterdir())
    assert [text for text in differences_of_runs(straight, place) if "_root_dir" not in text] == []


def test_a_file_from_elsewhere_decides_neither_folders_nor_tracker(run: Run, stopped: Path, tmp_path: Path) -> None:
    """It may be a stranger's. The same file in a folder of its run decides them, as before."""
    content = torch.load(checkpoint(stopped, 7), weights_only=True)
    roots = {key: str(tmp_path / "theirs" / key) for key in ROOT_KEYS}
    content["config"] |= {**roots, "tracker": "mlflow"}
    file = tmp_path / "given.ckpt"
    torch.save(content, file)
    code, err = run(tmp_path / "new", resume=file, logs_root_dir="mine")
    assert code == 0, err
    first, second, *_ = err.splitlines()
    assert first == f"continuing the run {NAME} from {file}, epoch 2, step 7"
    assert second.startswith(
        f"{file} lies outside its run's folders, so folders and tracker come from the command line or the defaults: "
    )
    assert f"summary_root_dir runs/summary (not {roots['summary_root_dir']}), " in second
    assert "logs_root_dir mine (not " in second and second.endswith("tracker none (not mlflow)")
    assert not (tmp_path / "theirs").exists()
    places = {path.parent.parent.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob(".run.lock")}
    assert places == {Path("runs/checkpoints"), Path("runs/best_checkpoints"), Path("runs/summary"), Path("mine")}


def test_only_so_many_are_kept_however_often_the_run_is_killed(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "killed"
    keys = {**KEYS_OF_RUN, "ckpt_save_every_step": 1, "ckpt_keep_num": 2}
    assert run(place, **keys, kill_after=3)[0] == -9
    stranger = place / f"runs/checkpoints/{NAME}/{NAME}-9_99.ckpt"
    stranger.write_bytes(b"put there by somebody")
    assert run(place, **AUTO, kill_after=6)[0] == -9
    assert sorted(path.name for path in stranger.parent.glob("*-*.ckpt")) == [f"{NAME}-2_{n}.ckpt" for n in (5, 6)] + [
        stranger.name
    ]
    assert len(list(stranger.parent.glob("*.yaml"))) == 2


def test_a_finished_run_says_so_and_writes_nothing(run: Run, straight: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    code, err = run(straight, **AUTO)
    assert code == 0
    assert " is finished: max_steps 10 ended it at step 10; --max_steps 0 continues it to the end of epoch 3" in err
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


def test_a_finished_run_goes_on_when_it_is_given_more(run: Run, straight: Path, tmp_path: Path) -> None:
    place = copied(straight, tmp_path)
    code, err = run(place, **AUTO, max_steps=0, epochs=4, kill_after=13)
    assert code == -9
    assert "changed from step 10 on: max_steps 10 -> 0, epochs 3 -> 4; from there on, results differ" in err
    rows = history(place / f"runs/logs/{NAME}/history.csv")
    assert [row["step"] for row in rows if row["kind"] == "step"] == ["3", "6", "9", "12"]


def test_what_the_file_says_otherwise_is_named(run: Run, stopped: Path, tmp_path: Path) -> None:
    place = copied(stopped, tmp_path)
    (place / "c.yaml").write_text(f"arch: {NAME}\nbase_lr: 0.5\nbatch_size: 4\nepochs: 9\n")
    code, err = run(place, config="c.yaml", resume="auto", print_loss_every=5)
    assert code == 0
    assert "overrides c.yaml: base_lr 0.001 (not 0.5), epochs 3 (not 9)" in err
    assert "changed from step 7 on: print_loss_every 3 -> 5\n" in err


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"optimizer": "sgd"}, "optimizer adamw -> sgd: the optimizer's state belongs to the old one"),
        ({"arch": "t2t_vit_7", "resume": "CKPT"}, "arch t2t_vit_quickstart -> t2t_vit_7: the weights"),
        ({"seed": 3}, "seed 0 -> 3: every random number"),
        ({"with_ema": False}, "with_ema True -> False"),
        ({"model_average": "swa"}, "model_average none -> swa: an average covers the weights of all its epochs"),
        ({"train_num_samples": 34}, "train_num_samples 35 -> 34: its steps"),
        ({"batch_size": 5}, "an update takes 8 images, and now 10"),
        ({"start_epoch": 1}, "start_epoch 0 -> 1: a continued run has its own epoch"),
        ({"start_epoch": 1, "resume": "CKPT"}, "start_epoch 1 contradicts a continued run"),
        ({"resume": "CKPT", "pretrained": "CKPT", "exclude_epoch_state": False}, "both name a run to continue"),
        ({"resume": "none.ckpt"}, "none.ckpt: no such file"),
        ({"resume": "foreign.pth"}, "foreign.pth: holds weights but no t2t_vit run to continue"),
        ({"resume": "text.txt"}, "text.txt: is not a checkpoint of a t2t_vit run"),
        ({"resume": "old.ckpt"}, "old.ckpt: lacks progress, so its run cannot be continued"),
        ({"resume": "other.ckpt"}, "its class 0 is 'boot', and now it is 't-shirt_top'"),
        ({"resume": "fewer.ckpt"}, "it has 36 training images, there are 35 now, and the list"),
        ({"resume": "torn.ckpt"}, "does not match"),
    ],
)
def test_what_cannot_be_continued_is_one_sentence(
    run: Run, stopped: Path, keys: dict[str, object], sentence: str
) -> None:
    source = checkpoint(stopped, 7)
    _write_oddities(stopped, torch.load(source, weights_only=True))
    before = written(stopped)
    line = {**AUTO, **{key: source if value == "CKPT" else value for key, value in keys.items()}}
    code, err = run(stopped, **line)
    assert code == 2, err
    assert sentence in err.splitlines()[-1]
    assert written(stopped) == before


def written(place: Path) -> dict[Path, int]:
    """When each file was written last, but for the lock, which names the last process that was there."""
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.name != ".run.lock"}


def _write_oddities(place: Path, content: dict[str, Any]) -> None:
    if (place / "text.txt").exists():
        return
    (place / "text.txt").write_text("not a checkpoint")
    torch.save(content["model"], place / "foreign.pth")
    torch.save({key: value for key, value in content.items() if key != "progress"}, place / "old.ckpt")
    torch.save({**content, "classes": ["boot", *content["classes"][1:]]}, place / "other.ckpt")
    torch.save({**content, "data": {**content["data"], "train_images": 36}}, place / "fewer.ckpt")
    model = {name: tensor for name, tensor in content["model"].items() if name != "head.bias"}
    torch.save({**content, "model": model}, place / "torn.ckpt")


def test_every_key_is_free_refused_or_listed() -> None:
    assert set(REFUSED) <= set(KEYS)
    assert set(FREE) <= set(KEYS)
    assert not set(REFUSED) & set(FREE)
    assert CHOICE <= FREE


@pytest.mark.parametrize(
    ("processes", "name"), [(1, "SIGKILL"), pytest.param(2, "SIGKILL", marks=pytest.mark.thorough)]
)
def test_the_command_itself_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], processes: int, name: str
) -> None:
    """Real processes with workers, killed twice at random moments; for longer, and with other signals, run kill.py."""
    short = ["--train_num_samples=120", "--val_num_samples=40", "--epochs=3", "--num_parallel_workers=1"]
    short += [f"--batch_size={20 // processes}", "--accumulation_step=1", "--ckpt_save_every_step=2"]
    code = trial(tmp_path, 2, name, processes, seed=processes, extra=short)
    assert code == 0, capsys.readouterr().out
