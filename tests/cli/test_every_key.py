"""Every configuration key, set to a second value, is seen to do something, or the run says that it does not.

A row of `ROWS` is a run that differs from another in one key, and how that is seen: `train` is deterministic, so a key
that were ignored would leave the same losses to the last bit.
"""

import csv
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2t_vit.cli.main import main
from t2t_vit.settings.schema import KEYS

pytestmark = pytest.mark.usefixtures("one_thread")

ARCH = "t2t_vit_s_4"  # the cheapest
BASE: dict[str, object] = {
    "arch": ARCH,
    "image_size": 28,
    "val_dir": "val",
    "epochs": 2,
    "warmup_length": 1,
    "batch_size": 4,
    "num_parallel_workers": 0,
    "pynative_mode": True,
    "device_target": "CPU",
    "print_loss_every": 1,
    "summary_loss_collect_freq": 1,
    "ckpt_save_every_seconds": 0,
    "auto_augment": "",
    "color_jitter": 0,
    "re_prob": 0,
    "cutmix": 0,
    "mixup": 0,
}


@dataclass(frozen=True)
class Outcome:
    """What one run said and left."""

    code: int
    out: str
    err: str
    place: Path
    files: frozenset[str]
    rows: list[dict[str, str]] = field(repr=False)

    def column(self, name: str, kind: str = "step") -> list[str]:
        return [row[name] for row in self.rows if row["kind"] == kind]

    @cached_property
    def events(self) -> bytes:
        return b"".join((self.place / file).read_bytes() for file in self.files if "tfevents" in file)

    def count(self, start: str, ending: str) -> int:
        return sum(file.startswith(start) and file.endswith(ending) for file in self.files)


Seen = Callable[[Outcome, Outcome], bool]


@dataclass(frozen=True)
class Row:
    """`--KEY value`, other keys that have to stand beside it, and how its effect is seen: plain run, changed run."""

    key: str
    value: object
    seen: Seen
    beside: Mapping[str, object] = field(default_factory=dict)
    command: str = "train"


def other(column: str, kind: str = "step") -> Seen:
    """The course of `column` is another one."""
    return lambda plain, run: run.code == 0 and plain.column(column, kind) != run.column(column, kind)


def says(pattern: str, code: int = 0) -> Seen:
    """A line that the plain run does not have; other lines of results and notes may be the same."""
    return lambda plain, run: (
        run.code == code and bool(re.search(pattern, run.err)) and not re.search(pattern, plain.err)
    )


def refused(pattern: str) -> Seen:
    """One sentence, exit code 2 and nothing left behind."""
    return lambda plain, run: says(pattern, 2)(plain, run) and run.err.count("\n") == 1 and not run.files


def evaluates_plainly(plain: Outcome, run: Outcome) -> bool:
    """Training is the plain network either way; by default a packed copy of it is evaluated."""
    packed = "each evaluation uses a new packed copy"
    return run.code == 0 and packed in plain.err and packed not in run.err and "network: the plain network" in run.err


def moved(root: str) -> Seen:
    """The files of `runs/{root}/` lie in `else/where/` now."""
    return lambda plain, run: (
        run.code == 0
        and plain.count(f"runs/{root}/", "") == run.count("else/where/", "") > 0
        and not run.count(f"runs/{root}/", "")
    )


def left(file: str) -> Seen:
    """This file alone is there, which it was not before."""
    return lambda plain, run: run.code == 0 and file in run.files and file not in plain.files


def fewer(start: str, many: int, few: int) -> Seen:
    """So many checkpoints in the folder, and then so many."""
    return lambda plain, run: (
        [
            sum(file.startswith(start) and re.search(r"-\d+_\d+\.ckpt$", file) is not None for file in one.files)
            for one in (plain, run)
        ]
        == [many, few]
    )


loss, lr, val_loss = other("train_loss"), other("lr"), other("val_loss", "epoch")
AMP = {"amp_level": "O1", "optimizer": "sgd", "max_steps": 3}
CHECKPOINTS, BEST = "runs/checkpoints/", f"runs/best_checkpoints/{ARCH}/t2t"

ROWS = [
    # ===== Dataset
    Row("dataset", "FashionMNIST", says("10 classes"), {"data_url": "", "train_num_samples": 8, "val_num_samples": 4}),
    Row("data_url", "../two", says("2 classes")),
    Row("train_dir", "val", says("9 training and 9 validation")),
    Row("val_dir", "train", says("12 training and 12 validation")),
    Row("train_num_samples", 6, says("6 training and 9 validation")),
    Row("val_num_samples", 3, says("12 training and 3 validation")),
    Row("val_split", 0.25, says("3 of 12 images"), {"val_dir": "nowhere", "val_split": 0.5}),
    Row("val_split", 0.25, says("val_split 0.25 is not needed")),
    Row("split_seed", 2, says("chosen by their names and split_seed 2"), {"val_dir": "nowhere", "val_split": 0.5}),
    Row("val_seed", 2, says(r"without effect: val_seed \(val_num_samples is -1\)")),
    Row("bad_images", "error", says("cannot be read.*with --bad_images skip", 2), {"data_url": "../broken"}),
    Row("max_pixels", 1000, says("too many pixels, 40 x 30: max_pixels is 1,000", 2), {"bad_images": "error"}),
    Row("class_balance", "weights", loss, {"train_num_samples": 5}),
    Row("class_balance", "sampling", loss, {"train_num_samples": 5}),
    # ===== Augmentations
    Row("auto_augment", "rand-m9-mstd0.5-inc1", loss),
    Row("aa_interpolation", "nearest", loss, {"auto_augment": "rand-m9-p1.0-n4"}),
    Row("repeated_augment", 2, loss),
    Row("repeated_augment", 4, refused("lower it, or raise batch_size .* above 4")),
    Row("re_mode", "const", loss, {"re_prob": 1}),
    Row("re_prob", 1, loss),
    Row("re_count", 4, loss, {"re_prob": 1}),
    Row("re_count", 4, says(r"without effect: re_count \(re_prob is 0\)")),
    Row("cutmix", 1, loss),
    Row("mix_token", 1, loss, {"teacher": "CKPT", "distill": "dense"}),
    Row("mix_token", 1, says(r"without effect: mix_token \(distill is none\)")),
    Row("mixup", 0.8, loss),
    Row("mixup_prob", 0.3, loss, {"mixup": 0.8}),
    Row("mixup_mode", "elem", loss, {"mixup": 0.8}),
    Row("mixup_mode", "pair", loss, {"mixup": 0.8}),
    Row(
        "mixup_off_epoch",
        1,
        lambda plain, run: (
            plain.column("train_loss")[:3] == run.column("train_loss")[:3]
            and plain.column("train_loss")[3] != run.column("train_loss")[3]
        ),
        {"mixup": 0.8},
    ),
    Row("switch_prob", 1, loss, {"mixup": 0.8, "cutmix": 1}),
    Row("label_smoothing", 0.3, loss),
    Row("min_crop", 0.9, loss),
    Row("crop_pct", 0.5, lambda plain, run: val_loss(plain, run) and not loss(plain, run)),
    Row("train_interpolation", "nearest", loss),
    Row("crop_schedule", "24:0.5,28:1.0", loss),
    Row("crop_schedule", "24x32:1.0", says("training images have 24 x 32 pixels from epoch 1 on")),
    Row("crop_schedule", "24x32:1.0", says("ends with another size than image_size 28, which evaluations use")),
    Row("crop_schedule", "24:0.5,28:0.9", refused("the last one must be 1.0, as in 96:0.6,128:1.0")),
    Row("hflip", 1, loss),
    Row("color_jitter", 0.4, loss),
    Row("mean", 0.5, loss),
    Row("std", 0.5, loss),
    # ===== Optimizer
    Row("optimizer", "sgd", loss),
    Row("optimizer", "momentum", loss, {"optimizer": "sgd"}),
    Row("optimizer", "lion", loss),
    Row("beta", "0.5 0.6", loss),
    Row("eps", 0.01, loss),
    Row("base_lr", 0.002, lr),
    Row("min_lr", 0.0005, lr),
    Row("lr_scheduler", "exp_lr", lr),
    Row("lr_scheduler", "constant_lr", lr),
    Row("lr_scheduler", "multistep_lr", lr, {"lr_scheduler": "exp_lr"}),
    Row("lr_scheduler", "wsd_lr", lr),
    Row("lr_decay_share", 0.5, lr, {"lr_scheduler": "wsd_lr", "epochs": 3}),
    Row("lr_decay_shape", "linear", lr, {"lr_scheduler": "wsd_lr", "lr_decay_share": 0.5, "epochs": 3}),
    Row("lr_adjust", 1, lr, {"lr_scheduler": "multistep_lr", "epochs": 3}),
    Row("lr_gamma", 0.5, lr, {"lr_scheduler": "exp_lr"}),
    Row("momentum", 0, loss, {"optimizer": "sgd"}),
    Row("weight_decay", 5, loss),
    Row("layer_decay", 0.5, loss),
    # ===== Network training config
    Row("epochs", 3, says("epoch 3/3")),
    Row("batch_size", 3, says("step 8/8")),
    Row("batch_size", 100, says("batch_size 100 is reduced to 12")),
    Row("accumulation_step", 3, says("step 2/2")),
    Row("is_dynamic_loss_scale", False, says("loss scale 1e.38(.|\n)*loss scale 1e.38"), {**AMP, "loss_scale": 1e38}),
    Row("loss_scale", 256, says("loss scale 256"), AMP),
    Row(
        "skipped_steps_limit",
        2,
        says("training diverged: 2 updates in a row, steps 1 to 2", 2),
        {**AMP, "loss_scale": 1e38, "is_dynamic_loss_scale": False},
    ),
    Row(
        "patience",
        1,
        says("early stopping: the last evaluation had no better top1 than the one at step"),
        {"base_lr": 1e-30, "warmup_lr": 1e-30, "min_lr": 1e-30, "epochs": 4},
    ),
    Row(
        "max_hours",
        1e-9,
        says("the limit of max_hours 1e-09 is reached .*: the run ends here; --resume .*/last.ckpt with a larger"),
    ),
    Row("best_by", "macro_f1", says("raw: Loss .* MacroF1 .*%")),
    Row(
        "num_parallel_workers", 999, says("num_parallel_workers 999 is reduced to"), {"batch_size": 12, "max_steps": 1}
    ),
    Row("cache", "9KiB", says("of the 12 training images 2 are decoded once and stay in memory, 7.08 KiB; ")),
    Row("cache", "off", lambda plain, run: "cache:" in plain.err and "cache:" not in run.err and not loss(plain, run)),
    Row("start_epoch", 1, lambda _, run: run.column("step") == ["4", "5", "6"]),
    Row("warmup_length", 0, lr),
    Row("warmup_lr", 1e-4, lr),
    Row("use_clip_grad_norm", False, loss, {"clip_grad_norm": 0.1}),
    Row("clip_grad_norm", 0.1, loss),
    Row("loss", "bce", loss),
    Row("bce_target_thresh", 0.2, loss, {"loss": "bce", "mixup": 0.8, "label_smoothing": 0}),
    Row("bce_target_thresh", 0.2, refused("set one of the two to 0"), {"loss": "bce", "mixup": 0.8}),
    Row("exclude_epoch_state", False, says("continuing .*start.ckpt, epoch 2, step 6"), {"pretrained": "CKPT"}),
    Row("seed", 1, loss),
    Row("with_ema", True, lambda _, run: "ema: Loss" in run.err and run.count(f"{BEST[:-4]}/ema/", ".ckpt") > 0),
    Row("ema_decay", 0.1, other("ema_loss", "epoch"), {"with_ema": True}),
    Row("model_average", "last_k", lambda _, run: all(run.column("ema_loss", "epoch"))),
    Row("model_average", "swa", lambda _, run: list(map(bool, run.column("ema_loss", "epoch"))) == [False, True]),
    Row(
        "model_average",
        "swa",
        refused("a run keeps one; set with_ema False, or model_average none"),
        {"with_ema": True},
    ),
    Row("average_epochs", 2, other("ema_loss", "epoch"), {"model_average": "last_k", "epochs": 3}),
    Row("average_share", 1, other("ema_loss", "epoch"), {"model_average": "swa"}),
    Row(
        "model_average",
        "swa",
        says(
            "model_average swa: averaging begins at the end of epoch 2 of 2, but the run ends before that, at step 1; "
            "there will be no averaged weights"
        ),
        {"max_steps": 1},
    ),
    Row("pynative_mode", False, says("asks for a compiled graph, but there is no C compiler")),
    Row("dataset_sink_mode", False, says(r"without effect: dataset_sink_mode \(the device is the CPU\)")),
    Row("teacher", "CKPT", loss, {"teacher": "OTHER", "distill": "soft"}),
    Row("teacher", "CKPT", says(r"without effect: teacher \(distill is none\)")),
    Row("distill", "soft", loss, {"teacher": "CKPT"}),
    Row("distill", "hard", loss, {"teacher": "CKPT"}),
    Row("distill", "dense", loss, {"teacher": "CKPT"}),
    Row("distill", "soft", refused("distill soft needs a teacher; give its file with --teacher")),
    Row("distill_weight", 0.9, loss, {"teacher": "CKPT", "distill": "soft"}),
    Row("distill_temperature", 3, loss, {"teacher": "CKPT", "distill": "soft"}),
    Row("resume", "auto", says("resume auto: no run .*: starting from the beginning")),
    Row("max_steps", 2, lambda _, run: run.column("step") == ["1", "2"]),
    Row(
        "eval_every_epochs", 0, lambda _, run: [bool(text) for text in run.column("val_loss", "epoch")] == [False, True]
    ),
    Row("cooldown_epochs", 1, lambda _, run: [float(text) for text in run.column("lr")[6:]] == [1e-5] * 3),
    # ===== Model arguments
    Row("arch", "t2t_vit_7", says("t2t_vit_7 28x28"), {"max_steps": 1}),
    Row("amp_level", "bf16", loss),
    Row("amp_level", "O1", says("precision O1")),
    Row("amp_level", "O2", loss, {"max_steps": 3}),
    Row("amp_level", "O3", refused("O3 is for inference only")),
    Row("amp_level", "auto", says(r"precision \w+"), {"amp_level": "O3"}),
    Row("file_format", "AIR", refused("AIR needs an Ascend"), {"pretrained": "CKPT"}, "export"),
    Row("file_format", "SAFETENSORS", left(f"{ARCH}.safetensors"), {"pretrained": "CKPT"}, "export"),
    Row("file_format", "PT2", left(f"{ARCH}.pt2"), {"pretrained": "CKPT"}, "export"),
    Row("file_format", "ONNX", says("without effect: file_format")),
    Row("pretrained", "CKPT", lambda plain, run: loss(plain, run) and "start.ckpt" in run.err),
    Row("image_size", "28 32", says(f"{ARCH} 28x32")),
    Row("num_classes", 7, refused("num_classes is 7")),
    Row("drop", 0.3, loss),
    Row("drop_block", 0.3, loss),
    Row("drop_path", 0.5, loss),
    Row("disable_approximate_gelu", False, loss),
    Row("in_chans", 1, loss),
    Row("performer_drop", 0.5, loss, {"arch": "t2t_vit_quickstart"}),
    Row("freeze", "1", loss),
    Row("freeze", "tokens", says(r"frozen: the T2T module, [\d,]+ of [\d,]+ parameters are trained")),
    Row("freeze", "99", refused("freeze 99: the network has 4 blocks")),
    # ===== Hardware setup
    Row("device_id", 3, says(r"without effect: device_id \(the device is the CPU\)")),
    Row("device_num", 2, refused("device_num 2 needs that many processes")),
    Row("device_target", "Ascend", refused("torch_npu")),
    Row("kernels", "triton", refused("kernels 'triton' cannot run: its kernels need a CUDA device")),
    Row("kernels", "reference", evaluates_plainly),
    Row("runtime", "torch", says(r"without effect: runtime \(train does not use it\)")),
    Row("exported_seconds", 5, says(r"without effect: exported_seconds \(train does not use it\)")),
    Row("exported_memory", 1, says(r"without effect: exported_memory \(train does not use it\)")),
    # ===== Callbacks setup
    Row("summary_root_dir", "else/where", moved("summary")),
    Row("ckpt_root_dir", "else/where", moved("checkpoints")),
    Row("best_ckpt_root_dir", "else/where", moved("best_checkpoints")),
    Row("logs_root_dir", "else/where", moved("logs")),
    Row("ckpt_keep_num", 2, fewer(CHECKPOINTS, 6, 2), {"ckpt_save_every_step": 1}),
    Row("best_ckpt_num", 1, fewer(BEST, 2, 1)),
    Row("ckpt_save_every_step", 2, fewer(CHECKPOINTS, 1, 3)),
    Row("ckpt_save_every_seconds", 4, fewer(CHECKPOINTS, 1, 2)),
    Row("print_loss_every", 3, lambda _, run: run.column("step") == ["3", "6"]),
    Row("summary_loss_collect_freq", 3, lambda _, run: run.events.count(b"train/loss") < 6),
    Row("model_postfix", "_b", lambda _, run: run.count(f"{CHECKPOINTS}{ARCH}_b/", "_6.ckpt") == 1),
    Row(
        "collect_input_data",
        True,
        lambda plain, run: b"inputs/augmented" in run.events and b"inputs" not in plain.events,
    ),
    Row("dump_graph", True, lambda _, run: run.count("runs/summary/", "graph.txt") == 1),
    Row("tracker", "wandb", lambda _, run: run.count("runs/logs/", ".wandb") == 1 and "tracker: wandb" in run.err),
    Row("tracker", "mlflow", lambda _, run: run.count("runs/logs/", "mlflow.db") == 1 and "tracker: mlflow" in run.err),
]


def test_every_key_has_a_row() -> None:
    assert {row.key for row in ROWS} == set(KEYS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ of three classes, two/ of two, broken/ with a file that is no image; images are 40 x 30 noise."""
    folder = tmp_path_factory.mktemp("every_key")
    rng = np.random.default_rng(0)
    for part, classes, each in (
        ("photos/train", "abc", 4),
        ("photos/val", "abc", 3),
        ("two/train", "ab", 4),
        ("two/val", "ab", 2),
        ("broken/train", "abc", 4),
        ("broken/val", "abc", 3),
    ):
        for name, number in itertools.product(classes, range(each)):
            path = folder / part / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    (folder / "broken/train/b/1.png").write_bytes(b"no image")
    return folder


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def memory() -> dict[str, Outcome]:
    """Runs that were made already: many rows have their plain run in common."""
    return {}


@pytest.fixture
def run(
    folder: Path, memory: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    seconds = itertools.count()
    monkeypatch.setattr("t2t_vit.training.retention.perf_counter", lambda: next(seconds))  # a second a step
    monkeypatch.setattr("os.fsync", lambda _: None)  # the slowest part of so small a run
    monkeypatch.setattr("t2t_vit.training.compilation.which", lambda _: None)  # compiling would take a minute

    def run(command: str, keys: Mapping[str, object]) -> Outcome:
        line = [command, *(f"--{key}={value}" for key, value in keys.items())]
        line = [word.replace("CKPT", str(folder / "start.ckpt")) for word in line]
        line = [word.replace("OTHER", str(folder / "other.ckpt")) for word in line]
        if (told := str(line)) not in memory:
            place = folder / f"run{len(memory)}"
            place.mkdir()
            monkeypatch.chdir(place)
            capsys.readouterr()
            code = main(line)
            out, err = capsys.readouterr()
            files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
            histories = [place / file for file in files if file.endswith("history.csv")]
            rows = [row for path in histories for row in csv.DictReader(path.read_text().splitlines())]
            memory[told] = Outcome(code, out, err, place, frozenset(files), rows)
        return memory[told]

    return run


@pytest.fixture
def start(run: Run, folder: Path) -> Path:
    """A checkpoint of the plain run; that of another one, whose classes have the same names, lies beside it."""
    path = folder / "start.ckpt"
    for file, changed in ((path, {}), (folder / "other.ckpt", {"seed": 1})):
        if not file.exists():
            made = run("train", {**BASE, "data_url": "../photos", **changed})
            assert made.code == 0, made.err
            (last,) = (made.place / f"runs/checkpoints/{ARCH}").glob("*-*.ckpt")
            file.write_bytes(last.read_bytes())
    return path


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.key}={row.value}" for row in ROWS])
@pytest.mark.usefixtures("start")
def test_a_second_value_is_seen(run: Run, row: Row) -> None:
    keys = {**BASE, "data_url": "../photos", **row.beside} if row.command == "train" else row.beside
    plain, changed = run(row.command, keys), run(row.command, {**keys, row.key: row.value})
    assert plain.code == 0 or row.key in ("dataset", "amp_level", "file_format"), plain.err
    assert row.seen(plain, changed), changed.err


def test_the_same_run_twice_has_the_same_losses(run: Run) -> None:
    keys = {**BASE, "data_url": "../photos"}
    plain, again = run("train", keys), run("train", {**keys, "seed": 0})
    assert plain is not again
    assert not loss(plain, again)
    assert not val_loss(plain, again)
