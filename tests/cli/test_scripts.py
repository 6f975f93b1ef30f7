"""The shell launchers, with a stand-in for python that prints its words."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
STAND_IN = """#!/bin/sh
echo "$(basename "$0") CUDA=${CUDA_VISIBLE_DEVICES-unset} PWD=$PWD"
for word in "$@"; do echo "[$word]"; done
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a space in its name, to run in."""
    (tmp_path / "bin").mkdir()
    for name, text in (("python", STAND_IN), ("nvidia-smi", "#!/bin/sh\nexit 9\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "a place").mkdir()
    return tmp_path / "a place"


def launch(place: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    env["PATH"] = f"{place.parent / 'bin'}:{env['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *words], cwd=place, env=env, capture_output=True, text=True, check=False
    )


def started(place: Path, script: str, *words: str) -> tuple[str, list[str]]:
    done = launch(place, script, *words)
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first.endswith(f" PWD={place}")
    return first.removesuffix(f" PWD={place}"), [word[1:-1] for word in rest]


@pytest.mark.parametrize("script", ["run_distribute_train_gpu.sh", "run_distribute_train.sh"])
def test_distributed_training(place: Path, script: str) -> None:
    words = "../my configs/c.yaml", "--num_devices", "2", "--device_ids", "0,3", "--checkpoint", "a b.ckpt"
    first, rest = started(place, script, *words, "--extra", "--batch_size", "48", "--data_url", "/a b")
    assert first == "python CUDA=0,3"
    assert rest[:5] == ["-m", "t2t_vit.cli.launch", "--standalone", "--nproc_per_node", "2"]  # torchrun, exit code kept
    assert rest[5:8] == [str(ROOT / "train.py"), "--config_path", "../my configs/c.yaml"]
    assert rest[8:12] == ["--pretrained", "a b.ckpt", "--exclude_epoch_state", "False"]
    assert rest[12:] == ["--batch_size", "48", "--data_url", "/a b"]


def test_a_mistake_is_said_before_the_processes_start(place: Path) -> None:
    python = place.parent / "bin" / "python"
    python.write_text("#!/bin/sh\necho 't2t-vit: a mistake' >&2; exit 2\n")
    done = launch(place, "run_distribute_train_gpu.sh", "c")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "t2t-vit: a mistake\n")


@pytest.mark.parametrize(
    ("words", "count"),
    [([], "1"), (["--device_ids", "1,2,5"], "3"), (["--device_ids=4"], "1"), (["--num_devices=3"], "3")],
)
def test_number_of_processes(place: Path, words: list[str], count: str) -> None:
    assert started(place, "run_distribute_train_gpu.sh", "c", *words)[1][4] == count


def test_visible_gpus_are_counted(place: Path) -> None:
    smi = place.parent / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: x'\necho 'GPU 1: x'\n")
    assert started(place, "run_distribute_train_gpu.sh", "c")[1][4] == "2"


@pytest.mark.parametrize("script", ["run_standalone_train_gpu.sh", "run_standalone_train.sh"])
def test_standalone_training(place: Path, script: str) -> None:
    first, rest = started(
        place, script, "c.yaml", "--device", "1", "--checkpoint", "x.ckpt", "--extra", "--epochs", "2"
    )
    assert first == "python CUDA=unset"
    assert rest[:3] == [str(ROOT / "train.py"), "--config_path", "c.yaml"]
    assert rest[3:] == ["--device_id", "1", "--pretrained", "x.ckpt", "--exclude_epoch_state", "False", "--epochs", "2"]
    assert started(place, script, "c.yaml")[1] == [str(ROOT / "train.py"), "--config_path", "c.yaml"]


def test_evaluation(place: Path) -> None:
    words = ["c.yaml", "--checkpoint", "x.ckpt", "--device", "2", "--extra", "--val_dir", "v"]
    rest = started(place, "run_eval_gpu.sh", *words)[1]
    assert rest == [
        str(ROOT / "eval.py"),
        *["--config_path", "c.yaml", "--device_id", "2", "--pretrained", "x.ckpt", "--val_dir", "v"],
    ]


def test_inference(place: Path) -> None:
    words = "a bear/i.JPEG", "--checkpoint", "x y.ckpt", "--arch", "t2t_vit_19", "--output", "o.json"
    rest = started(place, "run_infer_gpu.sh", *words)[1]
    expected = ["--checkpoint", "x y.ckpt", "--arch", "t2t_vit_19", "--output", "o.json"]
    assert rest == [str(ROOT / "infer.py"), "a bear/i.JPEG", *expected]


LAUNCHERS = sorted(path.name for path in SCRIPTS.glob("run_*.sh"))


@pytest.mark.parametrize("script", LAUNCHERS)
def test_mistakes_are_one_sentence(place: Path, script: str) -> None:
    for words in (
        [],
        ["c", "--chekpoint", "x"],
        ["c", "--checkpoint"],
        ["c", "--checkpoint", "--arch"],
        ["c", "d"],
        ["c", "-x"],
    ):
        done = launch(place, script, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{script}: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [["--num_devices", "0"], ["--num_devices", "x"], ["--device_ids", "a"], ["--device_ids=0,1", "--num_devices=3"]],
)
def test_wrong_devices(place: Path, words: list[str]) -> None:
    done = launch(place, "run_distribute_train_gpu.sh", "c", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("script", LAUNCHERS)
def test_help_and_length(place: Path, script: str) -> None:
    done = launch(place, script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: {script} ")
    assert len((SCRIPTS / script).read_text().splitlines()) < 20


@pytest.mark.parametrize("command", ["train", "eval", "infer", "export"])
def test_the_checkouts_scripts_are_the_commands(command: str) -> None:
    text = (ROOT / f"{command}.py").read_text()
    assert f'main(["{command}", *sys.argv[1:]])' in text
