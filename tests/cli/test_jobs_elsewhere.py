"""Whole jobs with what Windows or macOS lacks taken away; see tests/platforms/stand_in.py."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STAND_IN = Path(__file__).parents[1] / "platforms/stand_in.py"
CLASSES = ("cat", "dog", "eel")
TRAIN = [
    "train", "--data_url", "photos", "--val_dir", "val", "--arch", "t2t_vit_quickstart", "--image_size", "28",
    "--warmup_length", "0", "--batch_size", "4", "--pynative_mode", "True", "--device_target", "CPU",
]  # fmt: skip
RUN = "t2t_vit_quickstart"
LAST, BEST = f"runs/checkpoints/{RUN}/last.ckpt", f"runs/best_checkpoints/{RUN}/best.ckpt"
SHORT = [
    [*TRAIN, "--epochs", "1", "--num_parallel_workers", "2"],
    ["infer", "photos", "--recursive", "--checkpoint", BEST, "--output", "predictions.csv"],
]
LONG = [
    *SHORT,
    [*TRAIN, "--epochs", "2", "--num_parallel_workers", "0", "--resume", LAST],
    ["eval", "--data_url", "photos", "--val_dir", "val", "--pretrained", BEST, "--output", "eval.json"],
    ["infer", "photos", "--recursive", "--checkpoint", BEST, "--output", "more.jsonl", "--batch_size", "2"],
    ["export", "--pretrained", BEST, "--file_format", "ONNX", "--output", "exported"],
    ["export", "--pretrained", BEST, "--file_format", "MINDIR", "--output", "exported"],
    ["export", "--pretrained", BEST, "--file_format", "SAFETENSORS", "--output", "exported"],
    ["infer", "photos", "--recursive", "--checkpoint", f"exported/{RUN}.onnx", "--output", "onnx.csv"],
]


def write_photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 3)):
        for number, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (30, 40, 3)) + np.array([0, 60 * number, 0])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.png")


ONE_STEP = [*TRAIN, "--max_steps", "1", "--num_parallel_workers", "0"]
PREDICT = ["infer", "photos/VAL/cat", "--checkpoint", f"All/{RUN}/last.ckpt", "--workers", "0", "--output", "a.jsonl"]
CASES = [  # job and exit code: names that differ only in case
    ([*ONE_STEP, "--val_dir", "VAL", "--ckpt_root_dir", "All", "--best_ckpt_root_dir", "all"], 0),
    ([*ONE_STEP, "--model_postfix=-Big"], 0),
    ([*ONE_STEP, "--model_postfix=-big"], 0),
    ([*PREDICT, "--errors", "A.JSONL"], 2),
    (PREDICT, 0),
]


def run_jobs(folder: Path, jobs: list[list[str]], *platform: str, codes: tuple[int, ...] = ()) -> str:
    write_photos(folder / "photos")
    lines = "".join(f"{json.dumps(job)}\n" for job in jobs)
    done = subprocess.run(
        [sys.executable, str(STAND_IN), *platform],
        cwd=folder, input=lines, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    ends = [line for line in said.splitlines() if line.startswith("EXIT")]
    assert ends == [f"EXIT {code}" for code in codes or [0] * len(jobs)], said
    assert "Traceback" not in said, said
    left = [path for path in folder.rglob("*") if path.name.endswith((".part", ".journal"))]
    assert not left
    return said


def predictions(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("platform", ["windows", "macos"])
def test_train_and_infer(platform: str, tmp_path: Path) -> None:
    said = run_jobs(tmp_path, SHORT, platform)
    assert "cannot be locked" not in said
    assert len(predictions(tmp_path / "predictions.csv")) == 1 + 21
    assert (tmp_path / BEST).is_symlink() == (tmp_path / LAST).is_symlink() == (platform == "macos")


@pytest.mark.thorough
@pytest.mark.parametrize("platform", [("windows",), ("windows", "keep"), ("macos",), ("macos", "keep")])
def test_train_resume_eval_infer_and_export(platform: tuple[str, ...], tmp_path: Path) -> None:
    said = run_jobs(tmp_path, LONG, *platform)
    assert "cache: this platform has no shared memory files; images are decoded in every epoch" in said
    assert said.count("same top-1 on 100.0% of 9 images") == 2
    assert predictions(tmp_path / "onnx.csv")[1:] and len(predictions(tmp_path / "more.jsonl")) == 21
    texts = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".tsv", ".html", ".jsonl", ".txt")]
    assert texts and not any(b"\r\n" in path.read_bytes() for path in texts)


@pytest.mark.thorough
@pytest.mark.parametrize("platform", ["windows", "macos"])
def test_names_that_differ_only_in_case_do_not_clash(platform: str, tmp_path: Path) -> None:
    jobs, codes = zip(*CASES, strict=True)
    said = run_jobs(tmp_path, list(jobs), platform, codes=codes)
    assert "left out of" not in said  # val_dir VAL is the folder val
    assert "--errors A.JSONL: is also the output; choose another file" in said
    assert {path.name.lower() for path in tmp_path.iterdir()} == {"photos", "all", "runs", "a.jsonl"}
    assert len(list(tmp_path.iterdir())) == 4
    assert (tmp_path / "All" / RUN / "best").is_dir()  # one folder for both: the best ones lie in the other's
    assert {path.name for path in (tmp_path / "runs/checkpoints").iterdir()} == {f"{RUN}-Big", f"{RUN}-big-2"}
