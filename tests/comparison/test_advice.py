"""What `compare` advises is followed: the answers that it adds are those that the run would have kept itself."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2t_vit.cli.main import main

TRAIN = (
    "train --arch t2t_vit_quickstart --image_size 28 --data_url photos --val_split 0.5 --epochs 1 --warmup_length 0 "
    "--batch_size 4 --num_parallel_workers 0 --pynative_mode True --device_target CPU --amp_level bf16"
)
PART = (
    "train --arch t2t_vit_quickstart --image_size 28 --in_chans 1 --mean 0.5 --std 0.5 --dataset FashionMNIST "
    "--train_num_samples 20 --val_num_samples 30 --epochs 1 --warmup_length 0 --batch_size 10 "
    "--num_parallel_workers 0 --pynative_mode True --device_target CPU --amp_level O0"
)


@pytest.mark.thorough
def test_the_command_adds_what_the_run_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in "ab":
        Path("photos", name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("photos", name, f"{number}.png"))
    assert main(TRAIN.split()) == 0
    logs, other = Path("runs/logs/t2t_vit_quickstart"), Path("runs/logs/other")
    shutil.copytree(logs, other)
    record = json.loads((other / "run.json").read_text()) | {"name": "other", "run": {"id": "x", "name": "other"}}
    (other / "run.json").write_text(json.dumps(record))
    kept = (logs / "answers.npy").read_bytes()
    (logs / "answers.npy").unlink()
    capsys.readouterr()
    assert main(["compare", str(logs), str(other)]) == 0
    out, err = capsys.readouterr()
    assert "there is no test" in out
    (line,) = [line for line in err.splitlines() if "this command adds the answers" in line]
    program, *words = shlex.split(line.partition("started in: ")[2])
    assert program == "t2t-vit"
    assert main(words) == 0
    assert (logs / "answers.npy").read_bytes() == kept
    capsys.readouterr()
    assert main(["compare", "runs/checkpoints/t2t_vit_quickstart", str(other)]) == 0  # the same run, by its checkpoints
    assert "McNemar's exact test on the same 12 images, p = 1.000" in capsys.readouterr().out


@pytest.mark.thorough
def test_after_the_commands_runs_of_two_seeds_are_paired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each was measured on the part of the embedded images that its seed drew."""
    monkeypatch.chdir(tmp_path)
    for seed in "01":
        assert main([*PART.split(), "--seed", seed, "--model_postfix", f"_{seed}"]) == 0
    runs = [f"runs/logs/t2t_vit_quickstart_{seed}" for seed in "01"]
    capsys.readouterr()
    assert main(["compare", *runs]) == 0
    out, err = capsys.readouterr()
    assert "there is no test" in out
    commands = [line.partition("started in: ")[2] for line in err.splitlines() if "this command replaces" in line]
    assert len(commands) == 2
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "t2t-vit"
        assert main(words) == 0
    capsys.readouterr()
    assert main(["compare", *runs]) == 0
    out, err = capsys.readouterr()
    assert "McNemar's exact test on the same 2,000 images" in out
    assert "this command" not in err
    for seed in "01":
        assert main([*PART.split(), "--seed", seed, "--val_seed", "0", "--model_postfix", f"_{seed}_0"]) == 0
    capsys.readouterr()
    assert main(["compare", *(f"{run}_0" for run in runs)]) == 0
    assert "McNemar's exact test on the same 30 images" in capsys.readouterr().out
