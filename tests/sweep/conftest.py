from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from t2t_vit.sweep import process, runner
from t2t_vit.sweep.runner import Runner
from t2t_vit.sweep.space import grid_size, read_over
from t2t_vit.sweep.study import Plan, Study

# Stands for `t2t-vit train`: four epochs whose accuracy is a function of base_lr and seed. It goes on from its last
# epoch, and does what a file of the current folder asks for at an epoch: kill-EPOCH-LR, once; fail-LR; ends-early-LR,
# without a word; never-begins; falls-LR, to 0 in its last epoch; wait-EPOCH; until-it-goes-EPOCH.
TRAINER = """
import json, os, pathlib, signal, sys, time
words = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
if pathlib.Path("never-begins").exists():
    print("t2t-vit: data_url is wrong", file=sys.stderr)
    sys.exit(2)
lr, seed = float(words.get("base_lr", 0.5)), int(words["seed"])
logs = pathlib.Path(words["logs_root_dir"]) / "net"
logs.mkdir(parents=True, exist_ok=True)
held = pathlib.Path(words["ckpt_root_dir"])
held.mkdir(parents=True, exist_ok=True)
last = held / "last"
rows = json.loads(last.read_text()) if last.exists() else []
keys = [{"key": "base_lr", "value": lr}, {"key": "seed", "value": seed}]
run = {"run": {"id": str(logs), "name": "net"}, "finished": None, "last_step": 4, "configuration": [{"keys": keys}]}
(logs / "run.json").write_text(json.dumps(run))
with pathlib.Path("started").open("a") as file:
    file.write(f"{lr} {seed} from {len(rows)} with {os.environ.get('OMP_NUM_THREADS')}\\n")
beside = logs / "new"
beside.write_text("".join(json.dumps(row) + "\\n" for row in rows))
beside.replace(logs / "history.jsonl")
for epoch in range(len(rows) + 1, 5):
    top1 = (1 - abs(lr - 0.7)) * epoch / 5 + seed / 1000
    if epoch == 4 and pathlib.Path(f"falls-{lr}").exists():
        top1 = 0.0
    row = {"kind": "epoch", "epoch": float(epoch), "step": epoch, "seconds": 1.0}
    row |= {"val_top1": top1, "val_loss": 1 - top1}
    rows.append(row)
    with (logs / "history.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\\n")
    if pathlib.Path(f"fail-{lr}").exists():
        print("t2t-vit: the loss is not finite", file=sys.stderr)
        sys.exit(2)
    kill = pathlib.Path(f"kill-{epoch}-{lr}")
    if kill.exists():
        kill.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if pathlib.Path(f"ends-early-{lr}").exists():
        sys.exit(0)
    if pathlib.Path(f"wait-{epoch}").exists():
        signal.pause()
    while pathlib.Path(f"until-it-goes-{epoch}").exists():
        time.sleep(0.01)
    last.write_text(json.dumps(rows))
header = ["kind", "epoch", "step", "seconds", "val_top1", "val_loss"]
lines = [header, *([str(row[name]) for name in header] for row in rows)]
(logs / "history.csv").write_text("".join(",".join(line) + "\\n" for line in lines))
scores = {"raw": {name: rows[-1]["val_" + name] for name in ("top1", "loss")}}
found = {"weights": "raw", "scores": scores, "top1": rows[-1]["val_top1"], "loss": 0.5}
found |= {"classes": [], "class_scores": []}
(logs / "evaluation.json").write_text(json.dumps(found))
(logs / "run.json").write_text(json.dumps(run | {"finished": "now"}))
if pathlib.Path("dies-after-its-end").exists():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which trainings are stood for by `TRAINER`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "training_program", lambda: TRAINER)
    monkeypatch.setattr(runner, "POLL", 0.01)
    return tmp_path


Sweep = Callable[..., Study]


@pytest.fixture
def sweep(here: Path) -> Sweep:
    """`sweep("base_lr=0.1,0.9", trials=..., ...)`: run or continue the sweep in the folder `sweep`; its study."""
    folder = here / "sweep"

    def words(texts: Mapping[str, str], seed: int) -> list[str]:
        return [*(f"--{key}={text}" for key, text in texts.items()), f"--seed={seed}"]

    def run(
        *over: str,
        trials: int = 0,
        seeds: Sequence[int] = (0,),
        default: Mapping[str, Any] | None = None,
        prune: str = "none",
        jobs: int = 1,
        note: Callable[[str], None] = lambda _: None,
        place: Path = folder,
        loss: bool = False,
    ) -> Study:
        place.mkdir(exist_ok=True)
        dimensions = read_over(over)
        plan = Plan(dimensions, trials or grid_size(dimensions) or 0, seeds, default, not trials, loss, prune, 4)
        study = Study(place, plan, 0)
        metric = "loss" if loss else "top1"
        Runner(place, plan, study, words, metric, jobs=jobs, environments=[{}] * jobs, note=note).run()
        return study

    return run
