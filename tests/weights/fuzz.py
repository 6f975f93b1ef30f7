"""Mutated files of every kind. By hand: `python tests/weights/fuzz.py 10000` prints what came of so many."""

import gzip
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from t2t_vit.api import evaluate, options_of
from t2t_vit.cli.eval import evaluate_job
from t2t_vit.data import fashion_mnist
from t2t_vit.data.readable import read_list
from t2t_vit.errors import UserError, printable
from t2t_vit.evaluation.findings import details
from t2t_vit.formats.mindir import GraphWriter
from t2t_vit.inference.exported import Metadata
from t2t_vit.inference.load import load
from t2t_vit.inference.mindir_predictor import mindir_metadata
from t2t_vit.model import T2TViT, create_model
from t2t_vit.model.pretrained import from_pretrained, preprocessing_of, save_pretrained
from t2t_vit.report.page import write_report
from t2t_vit.settings.file import read_config, to_yaml
from t2t_vit.settings.schema import Config
from t2t_vit.training.distributed import Processes
from t2t_vit.training.journal import History
from t2t_vit.training.retention import CheckpointFolder
from t2t_vit.training.run import mark_in, runs_of
from t2t_vit.training.trackers import RunId
from t2t_vit.weights import load_weights, read_saved_run, read_weights
from t2t_vit.weights.mindspore_file import write_mindspore_file
from t2t_vit.weights.show import shown

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mindspore"
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**10)
# What stands in the place of a word of JSON or YAML.
WORDS = (
    *("-1", "0", "1e999", "NaN", "8192", "1000000000", "99999999999999999999", "null", "true", "[]", "{}", '""', "1.5"),
    *('"\\u001b[2J"', "[1, [2]]", '{"a": 1}', '"t2t_vit_14"', "[0.5, 0.5, 0.5]", "[" * 50, "0x10", "&a [*a]", "''"),
)
OWN_CONFIG = {"arch": "t2t_vit_quickstart", "num_classes": 3, "image_size": 28, "in_chans": 1}
MEMORY = 512 * 2**20  # bytes that a file may take beyond what is there before


@dataclass(frozen=True)
class Seed:
    """A whole small file, what opens it, and how far into it is mutated (tensors at its end say little)."""

    kind: str
    name: str
    content: bytes
    open: Callable[[Path], object]
    head: int = 0
    is_text: bool = False


def small_tensors() -> dict[str, torch.Tensor]:
    names = ("cls_token", "pos_embed", "norm.weight", "norm.bias", "blocks.0.norm1.weight", "head.weight", "head.bias")
    shapes = ((1, 1, 8), (1, 5, 8), (8,), (8,), (8,), (3, 8), (3,))
    return {name: torch.full(shape, 0.5) for name, shape in zip(names, shapes, strict=True)}


def network() -> T2TViT:
    torch.manual_seed(0)
    return create_model("t2t_vit_quickstart", num_classes=3, image_size=28, in_chans=1)


def run_content(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """As `training.checkpoint.checkpoint_content` has it."""
    scores = {"loss": 0.5, "top1": 0.5, "top5": 1.0, "count": 20}
    return {
        "format": "t2t_vit", "version": 1, "arch": "t2t_vit_7", "config": Config().to_dict(), "classes": ["a", "b"],
        "data": {"train_images": 5, "updates_per_epoch": 2}, "run": {"id": "1d", "name": "a", "folder": "a"},
        "epoch": 2, "step": 3, "model": tensors, "ema": tensors, "scaler": None,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"params": [0], "lr": 0.1}]},
        "progress": {"lr": 0.1, "evaluated_at": 2, "closed_at": 2, "ended": False},
        "metrics": {"step": 2, "raw": scores}, "best": {"raw": [{"file": "a-1_2.ckpt", "step": 2, **scores}]},
        "followers": {"StopOnDivergence": {"looked": 3, "streak": [], "unread": {}}},
    }  # fmt: skip


def seeds(folder: Path) -> list[Seed]:
    tensors, path = small_tensors(), folder / "seed"
    found: list[Seed] = []

    def add(kind: str, opened: Callable[[Path], object] = look, name: str = "mutated.ckpt", **how: Any) -> None:
        found.append(Seed(kind, name, path.read_bytes(), opened, **how))

    for kind, content in (("torch", {"state_dict": tensors, "epoch": 3}), ("run", run_content(tensors))):
        opened = {"torch": look, "run": continued}[kind]
        for as_zip in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=as_zip)
            add(kind if as_zip else f"{kind}, stream", opened)
        torch.serialization.set_crc32_options(False)  # so that not every change is found by the checksum already
        torch.save(content, path)
        torch.serialization.set_crc32_options(True)
        add(f"{kind}, no checksums", opened)
    save_file(tensors, path)
    add("safetensors")
    write_mindspore_file(tensors, path)
    add("mindspore")
    for fixture in sorted(FIXTURES.glob("*.ckpt")):
        path.write_bytes(fixture.read_bytes())
        add("mindspore")
    model = network()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.serialization.set_crc32_options(False)
    torch.save({"state_dict": state}, path)
    torch.serialization.set_crc32_options(True)
    add("network", answered, head=seed_head(path))
    data = image_tree(folder / "data")
    add("eval", lambda file: evaluated(file, data), head=seed_head(path))
    left = run_files(path, data)
    whole = path.read_bytes()
    torch.serialization.set_crc32_options(False)
    torch.save(run_content(state) | {"arch": "t2t_vit_quickstart", "config": OWN_CONFIG, "classes": list("abc")}, path)
    torch.serialization.set_crc32_options(True)
    add("eval, checkpoint", lambda file: evaluated(file, data), head=seed_head(path))
    write_mindspore_file(state, path)
    add("eval, mindspore", lambda file: evaluated(file, data), head=2000)
    weights = folder / "weights.pth"
    weights.write_bytes(whole)
    for ending in ("png", "jpg", "webp", "gif", "tif", "jp2"):
        images = image_tree(folder / f"eval image {ending}")
        Image.linear_gradient("L").resize((40, 28)).convert("RGB").save(images / "val" / "a" / f"1.{ending}")
        path.write_bytes((images / "val" / "a" / f"1.{ending}").read_bytes())
        name = f"eval image {ending}/val/a/1.{ending}"
        add(f"eval, image {ending}", lambda file: evaluated(weights, file.parents[2]), name)
    save_file(state, path)
    head = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    add("network, safetensors", answered, head=head)
    add("eval, safetensors", lambda file: evaluated(file, data), head=head)
    save_pretrained(model, folder / "hub", classes=["a", "b", "c"])
    (folder / "hub" / "config.json").replace(path)
    add("folder", answered_by_folder, "hub/config.json", is_text=True)
    held = json.loads(path.read_text(encoding="utf-8"))
    held["pretrained_cfg"] |= {"mean": [0.5], "std": [0.5]}  # of one channel
    path.write_text(json.dumps(held, indent=2), encoding="utf-8")
    add("eval, folder", lambda file: evaluated(file.parent, data), "hub/config.json", is_text=True)
    graph = GraphWriter()
    graph.output(graph.node("ReLU", [graph.input("images", (-1, 1, 28, 28), "float32")]), (-1, 3), "float32")
    metadata = Metadata("t2t_vit_quickstart", _preprocessing(model), ("a", "b", "c"), 3)
    path.write_bytes(graph.to_bytes(metadata.to_strings(), "t2t_vit", "1"))
    add("mindir", mindir_metadata, "mutated.mindir")
    path.write_text(to_yaml(Config()), encoding="utf-8")
    add("yaml", read_config, "mutated.yaml", is_text=True)
    for name, content in left.items():
        path.write_bytes(content)
        add(f"run folder, {name}", run_folder(name), name, is_text=True)
    path.write_bytes(gzip.compress(bytes(16 + 784)))
    add("idx.gz", lambda file: fashion_mnist.fashion_mnist("val", "L", str(file.parent)), "t10k-images-idx3-ubyte.gz")
    return found


def seed_head(path: Path) -> int:
    """The bytes of a zip archive of torch before its first tensor."""
    return path.read_bytes().find(b"PK\x03\x04", 100)


def image_tree(folder: Path) -> Path:
    """Validation images of the network's three classes."""
    for grey, name in enumerate(("a", "b", "c")):
        (folder / "val" / name).mkdir(parents=True)
        Image.new("L", (28, 28), 80 * grey).save(folder / "val" / name / "0.png")
    return folder


def evaluated(path: Path, data: Path) -> None:
    """`eval --pretrained`."""
    evaluate(path, data_url=str(data), num_parallel_workers=0, arch="t2t_vit_quickstart", device="cpu")


def run_files(checkpoint: Path, data: Path) -> dict[str, bytes]:
    """What a run leaves beside its checkpoints, by the names of the files."""
    asked = options_of(
        "eval",
        "",
        {"pretrained": checkpoint, "data_url": str(data), "num_parallel_workers": 0, "arch": "t2t_vit_quickstart"},
    )
    found = evaluate_job(asked, Processes(), lambda _: None, wants_outcomes=True)
    assert found.outcomes is not None
    scores = {"raw": {"loss": 0.5, "top1": 0.5, "top5": 1.0, "count": 3}}
    run = {"id": "1d", "name": "a"}
    rows = [{"kind": kind, "epoch": 1, "step": 3, "train_loss": 0.5} for kind in ("step", "epoch")]
    contents: dict[str, object] = {
        "evaluation.json": {
            "step": 3,
            "epoch": 1,
            "weights": "raw",
            "scores": scores,
            **details(found.outcomes, found.images),
        },
        "run.json": {
            "run": run,
            "name": "a",
            "finished": None,
            "started": "2026-01-02T03:04:05+00:00",
            "arch": "t2t_vit_7",
            "image_size": [28, 28],
            "parameters": 4_210_000,
            "trainable": 3_000_000,
            "dataset": "ImageNet",
            "training_images": 31,
            "validation_images": 3,
            "classes": ["a", "b", "c"],
            "epochs": 3,
            "last_step": 12,
            "updates_per_epoch": 4,
            "software": {"torch": "2"},
            "hardware": {
                "device": "x",
                "device_type": "cpu",
                "processes": 1,
                "processor": "x",
                "cores": 5,
                "threads": 1,
                "precision": "float32",
            },
            "configuration": [{"section": "s", "keys": [{"key": "mean", "value": [0.5], "default": [0.5]}]}],
        },
        "checkpoints.json": {"run": run, "kind": "checkpoints", "files": ["a-1_3.ckpt", "a-2_6.ckpt"]},
        ".run.lock": {"run": run, "began": 1.5, "folders": ["c/a", "b/a", "s/a", "l/a"], "process": 1, "host": "h"},
        "wandb.json": {"run_id": "x1", "run": "1d"},
    }
    texts = {name: json.dumps(content) for name, content in contents.items()}
    texts["history.jsonl"] = "".join(f"{json.dumps(row)}\n" for row in rows)
    texts["history.csv"] = "kind,epoch,step,train_loss,val_top1\nstep,0.5,3,1.25,\nepoch,1.0,6,0.75,0.5\n"
    texts["images.txt"] = "a/0.png\nb/\\xff.png\n"
    return {name: text.encode() for name, text in texts.items()}


def run_folder(name: str) -> Callable[[Path], object]:
    """What reads that file of a run's folder."""

    def report(path: Path) -> None:
        write_report(path.parent, path.parent / "report.html")

    def listed(path: Path) -> None:
        mark_in(path.parent)
        runs_of("a", "a", [path.parent.parent] * 4)
        CheckpointFolder(path.parent).files()

    return {
        "history.jsonl": lambda path: History(path.parent, 5),
        "wandb.json": lambda path: RunId(path.parent, "wandb", run="1d", goes_on=True),
        "images.txt": read_list,
        "checkpoints.json": listed,
        ".run.lock": listed,
    }.get(name, report)


def _preprocessing(model: T2TViT) -> Any:
    from t2t_vit.data.preprocessing import Preprocessing

    return Preprocessing.from_dict(preprocessing_of(model))


def look(path: Path) -> None:
    """`weights show`, and every value read once."""
    for tensor in read_weights(path).tensors.values():
        tensor.clone()
    shown(path)


def continued(path: Path) -> None:
    """What --resume reads of a run, then its weights."""
    try:
        read_saved_run(path)
    finally:
        look(path)


def answered(path: Path) -> None:
    """`infer --pretrained`."""
    load(path).predict(Image.new("L", (30, 40)))


def answered_by_folder(path: Path) -> None:
    """The same of a folder, and `from_pretrained`."""
    try:
        load(path.parent).predict(Image.new("L", (30, 40)))
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that it does not know
            from_pretrained(path.parent)
        load_weights(network(), path.parent)


def mutated(seed: Seed, others: list[Seed], rng: random.Random) -> bytes:
    """The file after one to four changes."""
    changed = bytearray(seed.content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(min(seed.head or len(changed), len(changed))) if changed else 0
        kind = 7 if seed.is_text and rng.random() < 0.8 else rng.randrange(7)
        if kind == 7:
            begin, end = _word(changed, at)
            changed[begin:end] = rng.choice(WORDS).encode()
        elif kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            value = rng.choice(INTERESTING) % 2 ** (8 * size)
            changed[at : at + size] = value.to_bytes(size, order)
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + rng.randint(1, 64)]
        elif kind == 5:
            changed[at:at] = changed[at : at + rng.randint(1, 256)] * rng.randint(1, 4)
        else:
            other = rng.choice(others).content
            begin = rng.randrange(len(other))
            changed[at : at + rng.randint(0, 64)] = other[begin : begin + rng.randint(1, 256)]
    return bytes(changed)


def _word(text: bytearray, at: int) -> tuple[int, int]:
    """The word, number or quoted text around a place."""
    begin = end = at
    while begin > 0 and text[begin - 1] not in b" ,:[]{}\n":
        begin -= 1
    while end < len(text) and text[end] not in b" ,:[]{}\n":
        end += 1
    return begin, end


def outcome(number: int, whole: list[Seed], folder: Path) -> str:
    """What became of mutated file `number`; anything but a UserError escapes."""
    rng = random.Random(number)
    seed = _seed(number, whole)
    path = folder / seed.kind.replace(",", "") / seed.name if seed.kind.startswith("run folder") else folder / seed.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mutated(seed, whole, rng))
    try:
        seed.open(path)
    except UserError as error:
        assert len(printable(str(error))) < 1000, str(error)
        return f"{seed.kind}: refused"
    return f"{seed.kind}: opened"


def _seed(number: int, whole: list[Seed]) -> Seed:
    """Of each kind as many, however many files it has."""
    kinds = list(dict.fromkeys(seed.kind for seed in whole))
    of_kind = [seed for seed in whole if seed.kind == kinds[number % len(kinds)]]
    return of_kind[number // len(kinds) % len(of_kind)]


def work(first: int, last: int, folder: Path, pipe: Connection) -> None:
    """Send (number, outcome, seconds) of each file; what is wrong is sent as an outcome too."""
    torch.set_num_threads(1)
    whole = seeds(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    virtual = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, virtual + MEMORY))
    for number in range(first, last):
        start = time.perf_counter()
        signal.alarm(20)
        try:
            found = outcome(number, whole, folder)
        except BaseException as error:
            found = f"WRONG {_seed(number, whole).kind}: {type(error).__name__}: {str(error)[:200]}"
        signal.alarm(0)
        pipe.send((number, found, time.perf_counter() - start))
    pipe.close()


def outcomes(count: int, first: int = 0) -> dict[int, tuple[str, float]]:
    """Number -> what became of the file, and in how many seconds: in a process of its own, begun anew where it dies."""
    found: dict[int, tuple[str, float]] = {}
    context = multiprocessing.get_context("spawn")
    begin = first
    while begin < first + count:
        with TemporaryDirectory() as name:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(begin, first + count, Path(name), theirs))
            process.start()
            theirs.close()
            try:
                while True:
                    number, told, seconds = ours.recv()
                    found[number] = (told, seconds)
                    begin = number + 1
            except EOFError:
                process.join()
            if begin < first + count:
                found[begin] = (f"WRONG: the process ended with {process.exitcode}", 0.0)
                begin += 1
    return found


def main() -> None:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    found = outcomes(count, first)
    slowest = max(found, key=lambda number: found[number][1])
    told = Counter(told for told, _ in found.values() if not told.startswith("WRONG"))
    wrong = {number: told for number, (told, _) in found.items() if told.startswith("WRONG")}
    for text in [f"{count:,} files; slowest {found[slowest][1]:.2f} s (number {slowest})", json.dumps(told, indent=1)]:
        sys.stdout.write(f"{text}\n")
    for number, text in wrong.items():
        sys.stdout.write(f"{number}: {text}\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
