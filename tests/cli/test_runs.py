"""Several runs of one recipe, one after another and at once, stopped anywhere: none is lost, and none is mixed."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.cli.main import main
from t2t_vit.files import lead_to
from t2t_vit.formats import torch_archive
from t2t_vit.training.run import LOCK, mark_in

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
NAME = "t2t_vit_s_4"
# 3 updates an epoch, 6 in all.
BASE: dict[str, object] = {
    "arch": NAME, "image_size": 28, "data_url": "photos", "val_dir": "val", "epochs": 2, "warmup_length": 1,
    "batch_size": 4, "num_parallel_workers": 0, "pynative_mode": True, "device_target": "CPU", "amp_level": "O0",
    "print_loss_every": 1, "ckpt_save_every_step": 1, "ckpt_keep_num": 3, "best_ckpt_num": 1,
}  # fmt: skip
Command = Callable[..., tuple[int, str, str]]


class Killed(BaseException):
    """Stands for SIGKILL: no code of the program knows it."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with 12 training and 6 validation images of 3 classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: None)
    rng = np.random.default_rng(0)
    for part, each in (("train", 4), ("val", 2)):
        for name in "abc":
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(each):
                Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path


@pytest.fixture
def train(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`train(killed="on_step", after=3, **keys)`: the command's exit code, standard output and standard error."""
    assert here.exists()

    def train(killed: str = "", after: int = 0, **keys: object) -> tuple[int, str, str]:
        from t2t_vit.cli import train as module
        from t2t_vit.training.callbacks import Callbacks

        def dies(*words: object, **_: object) -> None:
            if killed == "report" or getattr(words[1], "step", None) == after:
                raise Killed

        capsys.readouterr()
        with monkeypatch.context() as patch:
            if killed == "report":
                patch.setattr(module, "write_json", dies)
            elif killed:
                patch.setattr(Callbacks, killed, _before(getattr(Callbacks, killed), dies))
            try:
                code = main(["train", *(f"--{key}={value}" for key, value in keys.items())])
            except Killed:
                code = -9
        return code, *capsys.readouterr()

    return train


def _before(original: Callable[..., None], dies: Callable[..., None]) -> Callable[..., None]:
    def method(*words: object) -> None:
        original(*words)
        dies(*words)

    return method


def checkpoints(name: str = NAME) -> list[str]:
    return sorted(path.name for path in Path("runs/checkpoints", name).glob("*-*.ckpt"))


def steps(name: str = NAME) -> list[int]:
    with Path("runs/logs", name, "history.csv").open(encoding="utf-8", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["kind"] == "step"]


def content(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().glob(f"runs/*/{folder}/**/*") if path.is_file()}


def identity(name: str = NAME) -> str:
    """The run's id, which everything that the run wrote has to agree on."""
    files = [*Path("runs").glob(f"*/{name}/**/checkpoints.json"), *Path("runs").glob(f"*/{name}/{LOCK}")]
    found = {json.loads(path.read_text())["run"]["id"] for path in [*files, Path("runs/logs", name, "run.json")]}
    for path in Path("runs").glob(f"*/{name}/**/*-*.ckpt"):
        try:
            run = torch.load(path, weights_only=True)["run"]
        except FileNotFoundError:  # a run that is alive deletes its oldest
            continue
        found.add(run["id"])
        assert run == {"id": run["id"], "name": NAME, "folder": name}
    (only,) = found
    return str(only)


def test_the_same_command_again_is_another_run(train: Command) -> None:
    assert train(**BASE)[0] == 0
    before = content(NAME)
    code, out, err = train(**BASE, base_lr=0.01)
    assert code == 0
    assert err.startswith(f"{NAME} is taken by another run: this one is {NAME}-2, in runs/checkpoints/{NAME}-2\n")
    assert content(NAME) == before
    assert f"runs/logs/{NAME}-2/report.html" in out
    assert train(**BASE, seed=3)[0] == 0
    assert len({identity(name) for name in (NAME, f"{NAME}-2", f"{NAME}-3")}) == 3
    assert steps(NAME) == steps(f"{NAME}-2") == steps(f"{NAME}-3") == [1, 2, 3, 4, 5, 6]


def test_auto_continues_the_newest_that_was_stopped_and_then_the_others(train: Command) -> None:
    assert train("on_step", 4, **BASE)[0] == -9
    assert train(**BASE)[0] == 0
    assert train("on_step", 2, **BASE, seed=1)[0] == -9
    finished = content(f"{NAME}-2")
    for name, step in ((f"{NAME}-3", 2), (NAME, 4)):
        code, _, err = train(arch=NAME, resume="auto")
        assert code == 0, err
        assert err.startswith(f"continuing the run {name} from runs/checkpoints/{name}/")
        assert re.match(rf".*, step {step}\n", err)
        assert steps(name) == [1, 2, 3, 4, 5, 6]
        assert identity(name)
    assert content(f"{NAME}-2") == finished
    code, out, err = train(arch=NAME, resume="auto")
    assert (code, err) == (0, f"the run {NAME}-3 is finished: step 6, epoch 2; a larger --epochs continues it\n")
    for line in out.splitlines():
        path = Path(line[18:].split("  ")[0])
        assert line.startswith(("predict", "evaluate")) or path.exists(), line


def test_a_postfix_that_looks_like_a_number_is_no_number(train: Command) -> None:
    assert train("on_step", 2, **BASE)[0] == -9
    assert train("on_step", 3, **BASE, model_postfix="-2")[0] == -9
    assert train("on_step", 4, **BASE)[0] == -9
    assert {path.name for path in Path("runs/logs").iterdir()} == {NAME, f"{NAME}-2", f"{NAME}-3"}
    err = train(arch=NAME, model_postfix="-2", resume="auto")[2]
    assert err.startswith(f"continuing the run {NAME}-2 from")
    for name in (f"{NAME}-3", NAME):
        assert train(arch=NAME, resume="auto")[2].startswith(f"continuing the run {name} from")


def test_what_was_stopped_before_its_first_checkpoint_begins_again_in_its_folder(train: Command) -> None:
    keys = {**BASE, "ckpt_save_every_step": 0}
    assert train("on_step", 2, **keys)[0] == -9
    assert checkpoints() == []
    first = mark_in(Path("runs/logs", NAME))
    code, _, err = train(**keys, resume="auto")
    assert code == 0, err
    assert err.startswith(f"resume auto: the run {NAME} was stopped before its first checkpoint: starting from the")
    assert steps() == [1, 2, 3, 4, 5, 6]
    assert mark_in(Path("runs/logs", NAME)) == first
    assert not Path("runs/logs", f"{NAME}-2").exists()


def test_a_kill_during_the_last_evaluation_is_repaired(train: Command) -> None:
    assert train("report", **BASE)[0] == -9
    report = Path("runs/logs", NAME, "report.html")
    before = content(NAME)
    assert not report.exists()
    code, out, err = train(arch=NAME, resume="auto")
    assert code == 0
    assert "the run is complete but its report is missing; writing it now" in err
    assert str(report) in out and report.exists()
    assert json.loads(report.with_name("evaluation.json").read_text())["step"] == 6
    same = {path for path, data in before.items() if content(NAME)[path] == data}
    assert {path.name for path in before if path not in same} <= {LOCK, "run.json", "train.log"}
    assert " is finished: step 6, epoch 2" in train(arch=NAME, resume="auto")[2]


def test_a_moved_run_whose_newest_file_is_damaged_goes_on_from_its_best_one(train: Command, here: Path) -> None:
    roots = {key: str(here / f"runs/{part}") for key, part in PARTS.items()}
    keys = {**BASE, "ckpt_save_every_step": 0, **roots}
    assert train("on_epoch", 3, **keys)[0] == -9
    (here / "runs").rename(here / "moved")
    folder = here / f"moved/checkpoints/{NAME}"
    (folder / f"{NAME}-2_5.ckpt").write_bytes(b"PK\3\4 torn")
    (folder / "checkpoints.json").write_text(
        json.dumps({**json.loads((folder / "checkpoints.json").read_text()), "files": [f"{NAME}-2_5.ckpt"]})
    )
    moved = {key: str(here / f"moved/{part}") for key, part in PARTS.items()}
    code, _, err = train(arch=NAME, resume="auto", **moved)
    assert code == 0, err
    assert err.startswith(f"continuing the run {NAME} from {here}/moved/best_checkpoints/{NAME}/{NAME}-1_3.ckpt")
    assert "skipped for an older one" in err
    assert not (here / "runs").exists()


PARTS = {
    "ckpt_root_dir": "checkpoints", "best_ckpt_root_dir": "best_checkpoints", "summary_root_dir": "summary",
    "logs_root_dir": "logs",
}  # fmt: skip


def test_a_copy_of_a_checkpoint_continues_its_own_run_and_harms_no_other(train: Command) -> None:
    assert train("on_step", 4, **BASE)[0] == -9
    Path("backup").mkdir()
    for path in Path("runs/checkpoints", NAME).glob("*_4.*"):
        shutil.copy(path, "backup")
    assert train(**BASE, seed=1)[0] == 0
    other = content(f"{NAME}-2")
    file = f"backup/{NAME}-2_4.ckpt"
    code, _, err = train(resume=file, killed="on_step", after=5)
    assert code == -9
    assert err.startswith(f"continuing the run {NAME} from {file}, epoch 2, step 4\n")
    assert steps() == [1, 2, 3, 4, 5]
    for path in Path("runs").glob(f"*/{NAME}"):
        shutil.rmtree(path)
    for part in ("checkpoints", "best_checkpoints", "summary", "logs"):  # its name is another run's now
        Path(f"runs/{part}/{NAME}-2").rename(f"runs/{part}/{NAME}")
    other = content(NAME)
    code, _, err = train(resume=file)
    assert code == 0, err
    first, second, *_ = err.splitlines()
    assert first == f"continuing the run {NAME} from {file}, epoch 2, step 4"
    assert second.startswith(f"{NAME} is taken by another run: this one is {NAME}-2")
    assert content(NAME) == other
    assert steps(f"{NAME}-2") == [5, 6]


def test_links_are_taken_by_every_command_and_never_for_checkpoints(
    train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(**BASE)[0] == 0
    last, best = Path("runs/checkpoints", NAME, "last.ckpt"), Path("runs/best_checkpoints", NAME, "best.ckpt")
    assert last.resolve().name == f"{NAME}-2_6.ckpt"
    assert not last.readlink().is_absolute() and not best.readlink().is_absolute()
    ranked = torch.load(last, weights_only=True)["best"]["raw"][0]
    assert best.resolve().name == ranked["file"]
    assert checkpoints() == [f"{NAME}-{epoch}_{step}.ckpt" for epoch, step in ((2, 4), (2, 5), (2, 6))]
    quick = ["--num_parallel_workers", "0", "--device_target", "CPU"]
    for file in (str(last), str(best)):
        assert main(["eval", "--pretrained", file, *quick]) == 0
        assert main(["infer", "photos/val/a", "--checkpoint", file, "--output", "p.json"]) == 0
        assert main(["weights", "show", file]) == 0
        assert main(["export", "--file_format", "SAFETENSORS", "--pretrained", file]) == 0
        Path("runs/logs", NAME, "report.html").unlink()
        capsys.readouterr()
        assert main(["report", file]) == 0
        assert capsys.readouterr().out == f"runs/logs/{NAME}/report.html\n"
    assert train(**BASE, pretrained=best)[0] == 0
    code, _, err = train(resume=last, epochs=3)
    assert code == 0, err
    assert err.startswith(f"continuing the run {NAME} from runs/checkpoints/{NAME}/{NAME}-2_6.ckpt, epoch 2, step 6\n")
    assert last.resolve().name == f"{NAME}-3_9.ckpt"


def test_a_link_that_a_living_run_moves_is_followed_again(
    train: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("on_step", 5, **BASE)[0] == -9
    last, read = Path("runs/checkpoints", NAME, "last.ckpt"), torch_archive._load
    old, new = (last.parent / f"{NAME}-{epoch}_{step}.ckpt" for epoch, step in ((2, 4), (2, 5)))

    def slow(*arguments: Any, **keys: Any) -> Any:
        if last.readlink().name == old.name:
            lead_to(last, new)
            old.unlink()
        return read(*arguments, **keys)

    monkeypatch.setattr(torch_archive, "_load", slow)
    for command in (["weights", "show", str(last)], ["report", str(last)], ["train", "--resume", str(last)]):
        old.write_bytes(new.read_bytes())
        lead_to(last, old)
        capsys.readouterr()
        assert main(command) == 0, capsys.readouterr().err
    assert re.match(rf"continuing the run {NAME} from \S+{new.name},", capsys.readouterr().err)
    last.unlink()
    lead_to(last, old)
    assert main(["weights", "show", str(last)]) == 2  # it leads nowhere, and stays so
    assert re.fullmatch(rf"t2t-vit: {last}: .*no such file.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("lacking", ["symlink_to", "both"])
def test_where_there_are_no_symlinks_the_names_are_files(
    train: Command, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuses)
    if lacking == "both":
        monkeypatch.setattr(Path, "hardlink_to", refuses)
    assert train("on_step", 5, **BASE)[0] == -9
    last = Path("runs/checkpoints", NAME, "last.ckpt")
    assert not last.is_symlink()
    assert torch.load(last, weights_only=True)["step"] == 5
    code, _, err = train(resume=last)
    assert code == 0, err
    assert checkpoints() == [f"{NAME}-2_{step}.ckpt" for step in (4, 5, 6)]
    assert torch.load(last, weights_only=True)["step"] == 6


def test_the_commands_at_the_end_are_ready(train: Command, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = train(**{**BASE, "ckpt_root_dir": "my runs/it's", "best_ckpt_root_dir": "my runs/best"})[1]
    out += train(**{**BASE, "data_url": str(here / "photos")})[1]
    commands = [shlex.split(line[18:]) for line in out.splitlines() if line.startswith(("predict", "evaluate"))]
    assert [words[:2] for words in commands] == [["t2t-vit", "infer"], ["t2t-vit", "eval"]] * 2
    for words in commands:
        assert main(words[1:]) == 0, words
    assert "eval results" in capsys.readouterr().out


def test_a_finished_run_with_more_epochs_names_both_rates_and_the_other_way(train: Command) -> None:
    assert train(**BASE)[0] == 0
    err = train("on_step", 7, arch=NAME, resume="auto", epochs=6)[2]
    told = re.search(r"learning rate changes from (\S+) at step 6 to (\S+) at the next step.*--pretrained (\S+)", err)
    assert told is not None
    with Path("runs/logs", NAME, "history.csv").open(encoding="utf-8", newline="") as file:
        rates = {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file) if row["kind"] == "step"}
    assert float(told[1]) == pytest.approx(rates[6], rel=1e-2)
    assert float(told[2]) == pytest.approx(rates[7], rel=1e-2)
    assert train(**BASE, pretrained=told[3])[0] == 0  # what it advises
    assert "learning rate changes" not in train(arch=NAME, resume="auto")[2]


def test_a_diverged_run_names_the_checkpoint_from_before(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2t_vit.training.step import TrainStep

    original = TrainStep.__call__

    def breaks(self: TrainStep, batches: object, step: int) -> object:
        metrics = original(self, batches, step)
        return metrics._replace(skipped=torch.tensor(step >= 3))

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", breaks)
        code, _, err = train(**BASE, skipped_steps_limit=2)
    assert code == 2, err
    assert "2 updates in a row, steps 4 to 5" in err
    told = re.search(r"from before step 3 is (\S+): --resume (\S+) with a lower --base_lr", err)
    assert told is not None and told[1] == told[2]
    assert torch.load(told[2], weights_only=True)["step"] == 2
    code, _, err = train(resume=told[2], base_lr=1e-4)
    assert code == 0, err
    assert steps() == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def start(here: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`start(**keys)`: the command as a process, at its first step."""
    started: list[subprocess.Popen[str]] = []

    def start(**keys: object) -> "subprocess.Popen[str]":
        line = [f"--{key}={value}" for key, value in keys.items()]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *line],
            cwd=here, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(process: "subprocess.Popen[str]", pattern: str) -> str:
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if re.search(pattern, line):
            return said
    raise AssertionError(said)


def test_runs_at_once_each_have_a_folder_and_the_living_are_not_continued(
    start: Callable[..., "subprocess.Popen[str]"], train: Command
) -> None:
    endless = {**BASE, "epochs": 500}
    one, two = start(**endless), start(**endless)
    said = until(one, r"^epoch 1/.* step 3/"), until(two, r"^epoch 1/.* step 3/")
    assert sum("is taken by another run" in text for text in said) == 1
    first, second = identity(NAME), identity(f"{NAME}-2")
    assert first != second
    last = f"runs/checkpoints/{NAME}/last.ckpt"
    for keys in ({"arch": NAME, "resume": "auto"}, {"resume": last}):
        code, _, err = train(**keys)
        assert code == 2
        assert re.fullmatch(r"t2t-vit: the run in \S+ is running: process \d+ on \S+; .*\n", err)
        assert re.findall(r"process (\d+)", err)[0] in (str(one.pid), str(two.pid))
    one.send_signal(signal.SIGKILL)
    two.send_signal(signal.SIGTERM)
    assert (one.wait(), two.wait()) == (-9, 143)
    for _ in range(2):
        code, _, err = train(arch=NAME, resume="auto", max_steps=1)
        assert code == 0, err
    assert (identity(NAME), identity(f"{NAME}-2")) == (first, second)
    for name in (NAME, f"{NAME}-2"):
        assert steps(name) == list(range(1, len(steps(name)) + 1))


def test_one_folder_may_hold_everything(train: Command) -> None:
    keys = {**BASE, "ckpt_keep_num": 1, **dict.fromkeys(PARTS, "r")}
    assert train("on_step", 5, **keys)[0] == -9
    assert train(**keys)[0] == 0
    for name in (NAME, f"{NAME}-2"):
        assert train(arch=NAME, resume="auto", **dict.fromkeys(PARTS, "r"))[0] == 0
        assert [path.name for path in Path("r", name).glob("*-*.ckpt")] == [f"{NAME}-2_6.ckpt"]
        assert len(list(Path("r", name, "best").glob("*-*.ckpt"))) == 1
        assert Path("r", name, "best/best.ckpt").exists() and Path("r", name, "report.html").exists()


def test_a_run_of_an_older_version_goes_on_and_gets_an_identity(train: Command) -> None:
    assert train("on_step", 4, **BASE)[0] == -9
    for path in Path("runs").rglob("*"):
        if path.name == "checkpoints.json":
            path.write_text(json.dumps(json.loads(path.read_text())["files"]))
        elif path.name in (LOCK, "run.json", "last.ckpt", "best.ckpt"):
            path.unlink()
        elif path.suffix == ".ckpt":
            held = torch.load(path, weights_only=True)
            del held["run"]
            torch.save(held, path)
    Path("backup").mkdir()
    file = shutil.copy(f"runs/checkpoints/{NAME}/{NAME}-2_4.ckpt", "backup")
    before = content(NAME)
    code, _, err = train("on_step", 5, resume=file)
    assert code == -9
    assert err.splitlines()[1].startswith(f"{NAME} is taken by another run: this one is {NAME}-2")
    assert content(NAME) == before
    shutil.rmtree(f"runs/checkpoints/{NAME}-2")
    shutil.rmtree(f"runs/best_checkpoints/{NAME}-2")
    code, _, err = train(arch=NAME, resume="auto")
    assert code == 0, err
    assert err.startswith(f"continuing the run {NAME} from runs/checkpoints/{NAME}/{NAME}-2_4.ckpt")
    assert mark_in(Path("runs/logs", NAME)) == mark_in(Path("runs/checkpoints", NAME)) is not None
    assert steps() == [1, 2, 3, 4, 5, 6]
    assert " is finished: step 6, epoch 2" in train(arch=NAME, resume="auto")[2]


OF_QUICKSTART = "t2t_vit_s_4"
QUICK = [
    "quickstart", "--train_num_samples=40", "--val_num_samples=20", "--epochs=1", "--warmup_length=0",
    "--batch_size=10", "--device_target=CPU", "--amp_level=O0",
]  # fmt: skip


@pytest.mark.thorough
def test_a_quickstart_replaces_a_finished_one_alone(
    train: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("runs/quickstart/checkpoints")
    assert train(config="quickstart", **dict(word[2:].split("=") for word in QUICK[1:]))[0] == 0
    own = content_of(folder / OF_QUICKSTART)
    assert main(QUICK) == 0
    first = mark_in(folder / f"{OF_QUICKSTART}-2")
    assert main(QUICK) == 0
    second = mark_in(folder / f"{OF_QUICKSTART}-2")
    assert first != second and second is not None
    assert sorted(path.name for path in folder.iterdir()) == [OF_QUICKSTART, f"{OF_QUICKSTART}-2"]
    assert content_of(folder / OF_QUICKSTART) == own

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("t2t_vit.training.callbacks.Callbacks.on_epoch", dies)
        with pytest.raises(Killed):
            main(QUICK)
    capsys.readouterr()
    stopped = mark_in(folder / f"{OF_QUICKSTART}-2")
    assert main(QUICK) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "continue it with t2t-vit quickstart --resume auto, or delete runs/quickstart to begin a new one" in said
    assert main([*QUICK, "--resume", "auto"]) == 0
    assert mark_in(folder / f"{OF_QUICKSTART}-2") == stopped
    shutil.rmtree("runs/quickstart")
    assert main(QUICK) == 0


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("here")
def test_a_quickstart_that_is_alive_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from t2t_vit.training.run import Lock

    monkeypatch.setattr("t2t_vit.training.run.SECONDS_TO_DIE", 0.1)
    lock = Lock(print)
    lock.take(Path("runs/quickstart"), fresh=False)
    lock.tell({})
    assert main(QUICK) == 2
    said = capsys.readouterr().err
    assert re.search(rf"runs/quickstart is in use by a running quickstart, process {os.getpid()} on \S+;", said)
    assert [path.name for path in Path("runs/quickstart").iterdir()] == [LOCK]
    lock.release()
