"""Kill a training run at random moments, continue it each time, and compare what it leaves with an undisturbed run.

    python benchmarks/kill.py [--kills 10] [--signal KILL|TERM|USR1] [--processes 1] [--place DIR] [-- --KEY VALUE ...]

Both runs are real commands on the embedded images, with everything random switched on. Compared are all checkpoints
and best checkpoints, tensor by tensor and value by value, and the histories without their columns of time. What
follows `--` is added to both runs' lines.
"""

import argparse
import csv
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
TIMED = ("images_per_second", "data_wait", "mfu", "memory", "seconds")
LINE = [
    "--arch=t2t_vit_quickstart",
    "--image_size=28",
    "--in_chans=1",
    "--dataset=FashionMNIST",
    "--train_num_samples=400",
    "--val_num_samples=100",
    "--epochs=6",
    "--warmup_length=1",
    "--batch_size=10",
    "--accumulation_step=2",
    "--num_parallel_workers=2",
    "--pynative_mode=True",
    "--device_target=CPU",
    "--amp_level=O0",
    "--with_ema=True",
    "--ema_decay=0.9",
    "--auto_augment=rand-m9-mstd0.5-inc1",
    "--re_prob=0.5",
    "--mixup=0.8",
    "--cutmix=1",
    "--drop=0.1",
    "--drop_path=0.1",
    "--print_loss_every=3",
    "--ckpt_save_every_step=7",
    "--ckpt_keep_num=4",
    "--best_ckpt_num=2",
]
ORIGINS = {None: "(killed again)", -1: "the beginning"}


@dataclass(frozen=True)
class Kill:
    """One kill, and where the run went on.

    saved       the step of the newest checkpoint that was there, -1 without any
    continued   the step that the next start named, -1 for the beginning; None: it was killed before it named one
    """

    after: float
    code: int
    saved: int
    continued: int | None


def main() -> int:
    own, _, extra = (sys.argv[1:], "", []) if "--" not in sys.argv else _cut(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--signal", choices=("KILL", "TERM", "USR1"), default="KILL")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path, help="an empty folder for both runs (default: a temporary one)")
    options = parser.parse_args(own)
    place = options.place or Path(tempfile.mkdtemp(prefix="kill-"))
    return trial(place, options.kills, f"SIG{options.signal}", options.processes, options.seed, extra)


def _cut(words: list[str]) -> tuple[list[str], str, list[str]]:
    at = words.index("--")
    return words[:at], "--", words[at + 1 :]


def trial(place: Path, kills: int, name: str, processes: int, seed: int, extra: list[str]) -> int:
    """One undisturbed and one killed run; prints a table, and returns 0 where nothing differs."""
    straight, killed = place / "straight", place / "killed"
    done = start(straight, processes, extra)
    _until_it_trains(done, straight)
    began = time.monotonic()
    if done.wait() != 0:
        print((straight / "stderr").read_text())
        return 1
    seconds = time.monotonic() - began
    print(f"straight run: {seconds:.0f} s of training, step {newest_step(straight)}")
    told = list(disturb(killed, processes, extra, kills, name, seconds, random.Random(seed)))
    print(f"{'kill':>4} {'after s':>8} {'exit':>5} {'saved step':>11} {'went on from':>15}")
    for number, kill in enumerate(told, 1):
        origin = ORIGINS.get(kill.continued, f"step {kill.continued}")
        print(f"{number:>4} {kill.after:>8.1f} {kill.code:>5} {kill.saved:>11} {origin:>15}")
    lost = [kill for kill in told if kill.continued is not None and kill.continued < kill.saved]
    differing = differences_of_runs(straight, killed)
    if name != "SIGKILL":  # the signal itself has a checkpoint written, which the other run has no reason to write
        extra_one = re.compile(r"runs/checkpoints/.*-\d+_\d+\.ckpt: only in one of the runs")
        differing = [text for text in differing if not extra_one.fullmatch(text)]
    files = len(list((straight / "runs").rglob("*.ckpt")))
    print(f"{len(told)} kills by {name}, {processes} process(es); {len(lost)} went on before the newest checkpoint")
    print(f"{files} checkpoints and the history compared: {len(differing)} differences")
    print("\n".join(differing[:20]))
    return 1 if differing or lost else 0


def start(place: Path, processes: int, extra: list[str]) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own, with `place` as its folder; standard error goes to place/stderr."""
    place.mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, str(ROOT / "train.py"), *LINE, *extra]
    with (place / "stderr").open("wb") as file:
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=place, env=env, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
        )


def disturb(
    place: Path, processes: int, extra: list[str], kills: int, name: str, seconds: float, rng: random.Random
) -> Iterator[Kill]:
    """Start, kill, and go on until there were so many kills; then to the end."""
    pending: tuple[float, int, int] | None = None
    for number in range(kills + 1):
        run = start(place, processes, [*extra, "--resume", "auto"])
        began = time.monotonic()
        if rng.random() < 0.9:  # else it may be killed while it starts
            _until_it_trains(run, place)
        if number < kills:
            _wait(run, rng.uniform(0, 2 * seconds / kills))
            over = run.poll() is not None
            if not over:
                os.killpg(run.pid, getattr(signal, name))
        code = run.wait()
        if pending is not None:
            yield Kill(*pending, continued_from(place))
        pending = (time.monotonic() - began, code, newest_step(place))
        if code == 0:
            return
        if number == kills or code == 2:
            raise SystemExit((place / "stderr").read_text())


def _wait(run: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _until_it_trains(run: subprocess.Popen[bytes], place: Path) -> None:
    """Wait for the first line of the log that names a step."""
    while run.poll() is None and not re.search(r"^epoch \d+/", (place / "stderr").read_text(), re.MULTILINE):
        time.sleep(0.05)


def newest_step(place: Path) -> int:
    """The largest step of a checkpoint in the folder of the run; -1 where there is none."""
    names = [path.name for path in place.glob("runs/checkpoints/*/*.ckpt")]
    return max((int(match[1]) for name in names if (match := re.search(r"_(\d+)\.ckpt", name))), default=-1)


def continued_from(place: Path) -> int | None:
    """The step that the last start said it goes on from: -1 for the beginning, None where it said nothing."""
    said = (place / "stderr").read_text()
    match = re.search(r"^continuing .* step (\d+)", said, re.MULTILINE)
    if match:
        return int(match[1])
    return -1 if "starting from the beginning" in said else None


def differences_of_runs(straight: Path, other: Path) -> list[str]:
    """What two runs left that is not the same: checkpoints, best checkpoints, histories."""
    names = [{path.relative_to(place) for path in (place / "runs").rglob("*.ckpt")} for place in (straight, other)]
    found = [f"{name}: only in one of the runs" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        one, two = (torch.load(place / name, weights_only=True) for place in (straight, other))
        for content in (one, two):
            content.pop("run")  # its id, which is random
        found += [f"{name}: {text}" for text in differences(one, two)]
    for path in sorted((straight / "runs/logs").rglob("history.csv")):
        name = path.relative_to(straight)
        found += [f"{name}: {text}" for text in differences(history(path), history(other / name))]
    return found


def history(path: Path) -> list[dict[str, str]]:
    """The rows of a history without what was timed."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMED} for row in csv.DictReader(file)]


def differences(one: Any, two: Any, where: str = "") -> list[str]:
    """Where two nested values differ; tensors have to be equal bit for bit."""
    if type(one) is not type(two):
        return [f"{where}: {type(one).__name__} and {type(two).__name__}"]
    if isinstance(one, torch.Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape and bits(one) == bits(two)
        return [] if same else [f"{where}: tensors differ"]
    if isinstance(one, dict):
        found = [f"{where}.{key}: only in one" for key in one.keys() ^ two.keys()]
        return found + [
            text for key in one.keys() & two.keys() for text in differences(one[key], two[key], f"{where}.{key}")
        ]
    if isinstance(one, list | tuple):
        found = [] if len(one) == len(two) else [f"{where}: {len(one)} and {len(two)} items"]
        pairs = enumerate(zip(one, two, strict=False))
        return found + [text for index, (a, b) in pairs for text in differences(a, b, f"{where}[{index}]")]
    return [] if one == two or (one != one and two != two) else [f"{where}: {one!r} and {two!r}"]


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor: NaN equals itself, and -0 does not equal 0."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


if __name__ == "__main__":
    sys.exit(main())
