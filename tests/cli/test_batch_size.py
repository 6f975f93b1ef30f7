"""`batch_size: auto`: what it comes to on an accelerator and on a CPU, and where the number is written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from t2t_vit.assembly import batch_size
from t2t_vit.assembly.batch_size import Trial, Wanted, check_memory, largest, resolved, shared, training_bytes, wanted
from t2t_vit.cli.main import main
from t2t_vit.errors import UserError
from t2t_vit.precision import Precision
from t2t_vit.settings.command_line import parse
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config
from t2t_vit.training.distributed import Processes
from t2t_vit.training.teacher import Teacher

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = Precision("O0", torch.device("cpu"))
NAME = "t2t_vit_quickstart"
RUN: dict[str, object] = {
    "arch": NAME, "image_size": 28, "in_chans": 1, "mean": 0.5, "std": 0.5, "dataset": "FashionMNIST",
    "train_num_samples": 48, "val_num_samples": 20, "epochs": 1, "warmup_length": 0, "num_parallel_workers": 0,
    "pynative_mode": True, "device_target": "CPU", "auto_augment": "",
}  # fmt: skip


@pytest.mark.parametrize("whole", [1, 2, 7, 64, 96, 100, 127, 512, 1000])
@pytest.mark.parametrize("most", [1, 2, 5, 31, 64, 100, 4000])
def test_the_images_of_an_update_are_kept(whole: int, most: int) -> None:
    batch, accumulation = shared(whole, most)
    assert 1 <= batch <= most
    assert abs(batch * accumulation - whole) <= accumulation / 2 + (batch == most) * accumulation
    if whole <= most:
        assert (batch, accumulation) == (whole, 1)


def test_whole_numbers_of_batches_are_preferred() -> None:
    assert shared(128, 100) == (64, 2)
    assert shared(96, 40) == (32, 3)
    assert shared(100, 40) == (25, 4)
    assert shared(127, 64) == (64, 2)


@pytest.mark.parametrize("start", [1, 3, 100, 128])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 50, 99, 100, 128, 500, 10_000])
@pytest.mark.parametrize("most", [1, 100, 128, 1000])
def test_the_largest_that_fits_is_found_to_an_eighth(start: int, limit: int, most: int) -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    found, best = largest(fits, start, most), min(limit, most)
    assert found <= best <= found + max(1, found // 8)
    assert len(asked) == len(set(asked)) < 20 and max(asked) <= most


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("batch_size: 64\naccumulation_step: 2", ["--batch_size", "auto"], Wanted(64, False)),
        ("batch_size: 64", ["--batch_size=auto", "--accumulation_step", "3"], Wanted(64, True)),
        ("batch_size: auto", [], Wanted(100, False)),
        ("batch_size: auto\naccumulation_step: 4", [], Wanted(100, True)),
        ("epochs: 3", ["--batch_size", "auto"], Wanted(100, False)),
    ],
)
def test_what_is_wanted(text: str, words: list[str], expected: Wanted, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text + "\n")
    options = parse("train", [str(tmp_path / "a.yaml"), *words])
    assert wanted(options) == expected and resolve(options)[0].batch_size == 0


@pytest.mark.parametrize(
    ("recipe", "fixed", "accumulation", "fitting", "images", "expected"),
    [
        (64, False, 1, 1000, 0, (64, 1)),
        (64, False, 1, 40, 0, (32, 2)),
        (64, False, 2, 40, 0, (32, 4)),
        (64, False, 4, 1000, 0, (256, 1)),
        (64, True, 4, 100, 0, (96, 4)),
        (64, True, 4, 10_000, 500, (500, 4)),
        (512, False, 1, 1000, 80, (80, 1)),
        (512, False, 1, 30, 80, (20, 4)),
    ],
)
def test_on_an_accelerator(
    recipe: int,
    fixed: bool,
    accumulation: int,
    fitting: int,
    images: int,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trial, "fits", lambda _, batch: batch <= fitting)
    # A device that there is here, taken for another one.
    monkeypatch.setattr(batch_size, "held_by_memory", lambda *_: pytest.fail("a CPU's estimate"))
    config = Config(batch_size=0, accumulation_step=accumulation)
    notes: list[str] = []
    found = resolved(config, Wanted(recipe, fixed), Precision("O0", torch.device("meta")), notes.append, images=images)
    assert (found.batch_size, found.accumulation_step) == expected
    assert f"batch_size auto: {expected[0]} (found by trial, meta), accumulation_step {expected[1]}" in notes[-1]


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "_free_memory", lambda: 1)
    with pytest.raises(UserError, match=r"not even one image fits .* lower image_size"):
        resolved(Config(arch=NAME, image_size=28, batch_size=0), Wanted(64, False), CPU, print)


def test_on_a_cpu_it_is_the_recipes_number_cut_to_what_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(arch=NAME, image_size=28, batch_size=0, num_classes=10)
    fixed, per_image = training_bytes(config)
    for images, expected in ((1000, (64, 1)), (33, (32, 2)), (32, (32, 2)), (20, (16, 4))):
        monkeypatch.setattr(batch_size, "_free_memory", lambda n=images: int((fixed + (n + 0.5) * per_image) / 0.9))
        found = resolved(config, Wanted(64, False), CPU, lambda _: None)
        assert (found.batch_size, found.accumulation_step) == expected
    monkeypatch.setattr(batch_size, "_free_memory", lambda: 0)  # nobody knows
    assert resolved(config, Wanted(64, False), CPU, lambda _: None).batch_size == 64


def test_the_estimate_counts_weights_and_activations() -> None:
    small, large = (training_bytes(Config(arch=NAME, image_size=size, num_classes=10)) for size in (28, 56))
    assert large[1] > 3 * small[1]  # four times as many tokens, and the same weights
    assert training_bytes(Config(arch=NAME, image_size=28, num_classes=10, with_ema=True))[0] == small[0] // 4 * 5


def test_a_trial_makes_the_step_of_a_run_with_a_teacher() -> None:
    asked: list[tuple[int, ...]] = []

    def answers(images: torch.Tensor) -> torch.Tensor:
        asked.append(tuple(images.shape))
        return torch.zeros(len(images), 3, 4, 4)

    config = Config(
        arch=NAME, image_size=28, num_classes=3, distill="dense", teacher="a file", mixup=0, cutmix=0, mix_token=1
    )
    assert Trial(config, CPU, Teacher(answers)).fits(2)
    assert asked and set(asked) == {(2, 3, 28, 28)}


def test_a_trial_makes_updates_and_knows_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(Config(arch=NAME, image_size=28, num_classes=10), CPU)
    assert trial.fits(2)
    seen: list[int] = []

    def step(_: object, batches: Any, _number: int) -> None:
        seen.extend(len(images) for images, _ in batches)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("t2t_vit.training.step.TrainStep.__call__", step)
    assert not trial.fits(3) and seen == [3]
    monkeypatch.setattr("t2t_vit.training.step.TrainStep.__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trial.fits(3)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("batch_size: 16\n", encoding="utf-8")

    def command(*words: str, **keys: object) -> tuple[int, str, str]:
        code = main(["train", "recipe.yaml", *words, *(f"--{name}={value}" for name, value in (RUN | keys).items())])
        return code, *capsys.readouterr()

    return command


def test_the_number_is_written_wherever_the_configuration_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, per_image = training_bytes(Config(arch=NAME, image_size=28, in_chans=1, num_classes=10))
    monkeypatch.setattr(batch_size, "_free_memory", lambda: int((fixed + 8.5 * per_image) / 0.9))
    code, out, _ = run("--print_config", batch_size="auto")
    assert code == 0 and (yaml.safe_load(out)["batch_size"], yaml.safe_load(out)["accumulation_step"]) == (8, 2)
    code, _, err = run(batch_size="auto", max_steps=2)
    assert code == 0 and "batch_size auto: 8 (estimated, cpu), accumulation_step 2" in err
    assert "2 steps of 16 images, 3 per epoch" in err
    keys = json.loads(Path(f"runs/logs/{NAME}/run.json").read_text(encoding="utf-8"))["configuration"]
    written = {each["key"]: each["value"] for section in keys for each in section["keys"]}
    held = torch.load(f"runs/checkpoints/{NAME}/{NAME}-1_2.ckpt", weights_only=True)["config"]
    beside = yaml.safe_load(Path(f"runs/checkpoints/{NAME}/{NAME}-1_2.yaml").read_text(encoding="utf-8"))
    for found in (written, held, beside):
        assert (found["batch_size"], found["accumulation_step"]) == (8, 2)
    # A run that goes on keeps what was found when it began.
    monkeypatch.setattr("t2t_vit.cli.train.resolved", lambda *_: pytest.fail("it is known"))
    code, _, err = run(batch_size="auto", resume="auto", max_steps=0)
    assert code == 0 and "step 3" in err and "batch_size" not in err


def test_where_nothing_is_trained_it_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("batch_size: auto\n")
    for command in ("eval", "bench"):
        words = ["step"] if command == "bench" else []
        options = parse(command, [*words, "--config", str(tmp_path / "a.yaml")])
        assert resolve(options)[0].batch_size == Config().batch_size


@pytest.mark.parametrize("word", ["0", "-1", "Auto", "", "1.5"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="--batch_size takes auto, or a whole number of at least 1; not"):
        parse("train", [f"--batch_size={word}"])


def test_a_batch_that_would_have_the_process_killed_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "_free_memory", lambda: 30 * 2**20)
    code, _, err = run(batch_size=48)
    assert (code, err.count("\n")) == (2, 1) and not Path("runs").exists()
    assert re.search(
        r"out of memory on this machine: an update with batch_size 48 takes .* 30 MiB are free: lower", err
    )
    # What it says: a smaller batch, or the one that fits.
    assert run(batch_size=4, max_steps=1)[0] == 0
    code, _, err = run(batch_size="auto", max_steps=1)
    assert code == 0 and "batch_size auto: 2 " in err


def test_what_may_fit_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(arch=NAME, image_size=28, num_classes=10, batch_size=48)
    fixed, per_image = training_bytes(config)
    monkeypatch.setattr(batch_size, "_free_memory", lambda: fixed + 17 * per_image)  # 48 images keep 32 times that
    check_memory(config, 1000, Processes())
    with pytest.raises(UserError, match="batch_size 48"):
        check_memory(config, 1000, Processes(count=2))
    check_memory(config, 8, Processes(count=2))  # the batch is cut to the images that there are


@pytest.mark.gpu
def test_a_trial_on_a_gpu_leaves_a_tenth_free_and_gives_all_back() -> None:
    device = torch.device("cuda", 0)
    free, total = torch.cuda.mem_get_info(device)
    held = torch.empty(max(0, free - 4 * 2**30), dtype=torch.uint8, device=device)  # 4 GiB are left
    config = Config(arch="t2t_vit_7", image_size=224, batch_size=0, num_classes=10)
    found = resolved(config, Wanted(1024, False), Precision("O0", device), print)
    assert 1 < found.batch_size < 1024 and found.accumulation_step > 1
    assert abs(found.batch_size * found.accumulation_step - 1024) <= found.accumulation_step
    assert torch.cuda.memory_allocated(device) <= held.nbytes + 2**25
    assert torch.cuda.get_per_process_memory_fraction(device) == 1.0 and total >= free
