import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2t_vit.evaluation.answers import ANSWER
from t2t_vit.settings.schema import KEYS, SECTIONS, Config

MakeRun = Callable[..., Path]
CLASSES = ("cat", "dog")


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """`make_run("a", right=[True, ...], base_lr=0.1)`: the logs folder of a run, as a finished run leaves it.

    The images are numbered by `images`; even ones are cats. `answers=False` is a run of an older version,
    `finished=False` one that was killed.
    """
    monkeypatch.chdir(tmp_path)

    def make(
        name: str,
        right: Sequence[bool] = (True, False),
        images: Sequence[int] | None = None,
        *,
        answers: bool = True,
        finished: bool = True,
        epochs: int = 2,
        seconds: float = 10.0,
        folder: Path = Path("runs/logs"),
        **keys: Any,
    ) -> Path:
        logs = folder / name
        logs.mkdir(parents=True)
        numbers = list(range(len(right))) if images is None else list(images)
        hits = np.array(right, bool)
        targets = np.array(numbers) % 2
        config = Config(arch="t2t_vit_quickstart", **keys).to_dict()
        record = {
            "run": {"id": f"id of {logs}", "name": name}, "name": name, "arch": "t2t_vit_quickstart",
            "parameters": 1000, "training_images": 10, "validation_images": len(numbers), "classes": list(CLASSES),
            "configuration": [
                {
                    "section": section,
                    "keys": [{"key": key, "value": config[key], "default": KEYS[key].default} for key in names],
                }
                for section, names in SECTIONS.items()
            ],
        }  # fmt: skip
        (logs / "run.json").write_text(json.dumps(record))
        rows = ["kind,epoch,step,train_loss,images_per_second,seconds,val_loss,val_top1"]
        top1 = float(hits.mean())
        for epoch in range(1, epochs + 1):
            rows.append(f"epoch,{epoch},{5 * epoch},{2 / epoch},100,{seconds},{1 / epoch},{top1 * epoch / epochs}")
        (logs / "history.csv").write_text("\n".join(rows) + "\n")
        if finished:
            scores = [
                {"count": int((targets == number).sum()), "recall": float(hits[targets == number].mean())}
                for number in range(2)
                if (targets == number).any()
            ]
            found = {
                "step": 5 * epochs, "epoch": epochs, "weights": "raw", "loss": 0.5, "top1": top1,
                "classes": list(CLASSES[: len(scores)]), "class_scores": scores,
            }  # fmt: skip
            (logs / "evaluation.json").write_text(json.dumps(found))
        if finished and answers:
            table = np.zeros(len(numbers), ANSWER)
            table["image"], table["target"] = numbers, targets
            table["predicted"] = np.where(hits, targets, 1 - targets)
            np.save(logs / "answers.npy", table)
        return logs

    return make
