"""How runs end before their schedule: early stopping that reports the best checkpoint, and hours that are over."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from t2t_vit.cli.main import main
from t2t_vit.weights import read_weights

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "t2t_vit_s_4"
RUN: dict[str, object] = {
    "arch": NAME, "image_size": 28, "in_chans": 1, "mean": 0.5, "std": 0.5, "dataset": "FashionMNIST",
    "train_num_samples": 40, "val_num_samples": 60, "epochs": 12, "warmup_length": 0, "batch_size": 8,
    "num_parallel_workers": 0, "pynative_mode": True, "device_target": "CPU", "with_ema": True, "ema_decay": 0.9,
    "auto_augment": "", "print_loss_every": 1, "base_lr": 0.003, "lr_scheduler": "constant_lr",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`run(**keys)`: train here; exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: None)

    def train(*words: str, **keys: object) -> tuple[int, str, str]:
        code = main(["train", *words, *(f"--{name}={value}" for name, value in (RUN | keys).items())])
        return code, *capsys.readouterr()

    return train


def evaluation() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"runs/logs/{NAME}/evaluation.json").read_text(encoding="utf-8"))
    return found


def rows() -> list[dict[str, Any]]:
    lines = Path(f"runs/logs/{NAME}/history.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "epoch"]


def best_of(row: dict[str, Any], measure: str) -> float:
    return max(row[f"{weights}_{measure}"] for weights in ("val", "ema"))


@pytest.mark.parametrize("best_by", ["top1", "macro_f1"])
def test_patience_ends_the_run_and_reports_the_best(run: Callable[..., Any], best_by: str) -> None:
    code, out, err = run(patience=2, best_by=best_by, epochs=40)
    assert code == 0 and f"early stopping: the last 2 evaluations had no better {best_by} than the one" in err
    scores = [best_of(row, best_by) for row in rows()]
    assert len(scores) == scores.index(max(scores)) + 3 < 40
    best = [row["step"] for row in rows()].index(evaluation()["step"])  # of equal ones that of the lowest loss
    assert scores[best] == max(scores)
    assert max(numbers[best_by] for numbers in evaluation()["scores"].values()) == max(scores)
    named = re.search(r"best checkpoint   (\S+)", out)
    assert named is not None and f"_{rows()[best]['step']}.ckpt" in named[1] and Path(named[1]).is_file()
    result = re.search(r"result: (raw|ema) weights of epoch (\d+), step (\d+): .* \(measured in O0 on cpu\)", err)
    assert result is not None and (int(result[2]), int(result[3])) == (best + 1, rows()[best]["step"])
    # The weights that were reported are those of the file that is named.
    held = torch.load(named[1], weights_only=True)
    assert held["metrics"][result[1]][best_by] == max(scores)
    assert read_weights(named[1]).chosen == result[1] == evaluation()["weights"]


def test_the_file_that_is_named_evaluates_to_the_numbers_that_were_reported(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(patience=1, epochs=40)
    best = re.search(r"best checkpoint   (\S+)", out)
    assert best is not None
    assert main(["eval", "--pretrained", best[1], "--device", "cpu"]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    scores = evaluation()["scores"][evaluation()["weights"]]
    assert line.startswith("eval results: {") and f"'Top1-Acc': {scores['top1']}" in line


def test_a_run_that_stopped_early_is_over_until_it_may_wait_longer(run: Callable[..., Any]) -> None:
    run(patience=1, epochs=40)
    before = rows()
    code, _, err = run(patience=1, epochs=40, resume="auto")
    assert code == 0 and rows() == before
    assert " is finished: the last evaluation had no better top1 than the one at step" in err
    assert "a larger --patience, or 0, continues it" in err
    code, _, err = run(patience=0, epochs=len(before) + 2, resume="auto")
    assert code == 0 and len(rows()) == len(before) + 2


def test_hours_that_are_over_end_with_a_checkpoint_and_an_evaluation_and_can_be_continued(
    run: Callable[..., Any],
) -> None:
    run(epochs=2)
    whole = sorted(Path(f"runs/checkpoints/{NAME}").glob("*.ckpt"))[-1]
    plain = torch.load(whole, weights_only=True)
    code, _, err = run(epochs=2, max_hours=1e-9, model_postfix="_h")
    assert code == 0 and "the limit of max_hours 1e-09 is reached" in err and "the run ends here" in err
    first = Path(f"runs/checkpoints/{NAME}_h/{NAME}-1_1.ckpt")
    held = torch.load(first, weights_only=True)
    assert held["step"] == held["metrics"]["step"] == 1 and held["followers"]["TimeLimit"]["seconds"] > 0
    code, _, err = run(epochs=2, max_hours=1e-9, model_postfix="_h", resume="auto")
    assert code == 0 and " is finished: the limit of max_hours 1e-09 is reached" in err
    assert "a larger --max_hours, or 0, continues it" in err
    code, _, err = run(epochs=2, max_hours=0, model_postfix="_h", resume="auto")
    assert code == 0
    going_on = torch.load(Path(f"runs/checkpoints/{NAME}_h") / whole.name, weights_only=True)
    assert all(torch.equal(plain["model"][name], tensor) for name, tensor in going_on["model"].items())


def test_the_best_by_loss_and_a_change_of_measure(run: Callable[..., Any]) -> None:
    run(best_by="loss", epochs=4, best_ckpt_num=4)
    ranked = torch.load(f"runs/checkpoints/{NAME}/{NAME}-4_20.ckpt", weights_only=True)["best"]["raw"]
    assert [entry["loss"] for entry in ranked] == sorted(entry["loss"] for entry in ranked)
    code, _, err = run(best_by="macro_f1", epochs=6, resume="auto")
    assert code == 0 and "best_by loss -> macro_f1; from there on, results differ" in err
    ranked = torch.load(f"runs/checkpoints/{NAME}/{NAME}-6_30.ckpt", weights_only=True)["best"]["raw"]
    known = [entry["macro_f1"] for entry in ranked if "macro_f1" in entry]
    assert len(known) == 2 and known == sorted(known, reverse=True)
    assert all("macro_f1" in entry for entry in ranked[:2])
