"""Everything of a checkpoint of ours, bit for bit or not at all."""

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.weights import read_saved_run
from t2t_vit.weights.saved_run import RUN_ENTRIES


def content() -> dict[str, Any]:
    torch.manual_seed(0)
    tensors = {
        "float32": torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45]),
        "bfloat16": torch.randn(3, 5).bfloat16(),
        "float16": torch.randn(7).half(),
        "float64": torch.randn(2, 2, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "step": torch.tensor(7.0),
        "empty": torch.empty(0, 3),
    }
    return {
        "format": "t2t_vit",
        "version": 1,
        "arch": "t2t_vit_7",
        "config": {"beta": [0.9, 0.999], "arch": "t2t_vit_7"},
        "classes": ["cat", "dog"],
        "step": 7,
        "model": tensors,
        "optimizer": {
            "state": {0: dict(tensors), "k": torch.tensor([3])},
            "param_groups": [
                {"params": [0], "betas": (0.9, 0.999), "dtype": torch.float32, "rng": (3, (1, 2**63), None)}
            ],
        },
        "data": {"train_images": 5},
        "progress": {"closed_at": 4, "ended": False},
        "metrics": {},
        "best": {},
        "followers": {},
    }


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and bits(one) == bits(two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(content(), tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_every_value_and_every_bit_comes_back(path: Path) -> None:
    run = read_saved_run(path)
    assert run.step == 7
    assert same(run.content, content())


def test_tensors_are_in_memory_of_their_own(path: Path) -> None:
    """The file may be replaced, as by the next checkpoint of the run, while what was read is used."""
    found = read_saved_run(path).content
    for tensor in (*found["model"].values(), *found["optimizer"]["state"][0].values()):
        assert tensor.untyped_storage().resizable()  # which a view of a file is not


@pytest.mark.parametrize("name", RUN_ENTRIES)
def test_whatever_a_run_needs_is_asked_for(path: Path, name: str) -> None:
    without = content()
    without.pop(name)
    for damaged in (without, {**content(), name: None}):
        torch.save(damaged, path)
        with pytest.raises(UserError, match=rf"lacks {name}, so its run cannot be continued"):
            read_saved_run(path)


def test_a_damaged_file_is_told_or_reads_the_same(path: Path) -> None:
    """300 files with a bit changed, 100 cut short: never another content, never another error."""
    whole, rng, expected = path.read_bytes(), random.Random(1), content()
    told = 0
    for number in range(400):
        data = bytearray(whole)
        if number % 4:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            assert same(read_saved_run(path).content, expected)
        except UserError:
            told += 1
    assert told >= 100


def test_values_nested_without_end_are_refused(path: Path) -> None:
    nested: list[Any] = []
    for _ in range(60):
        nested = [nested, nested]
    torch.save({**content(), "best": {"raw": nested}}, path)
    with pytest.raises(UserError, match="nested too deeply"):
        read_saved_run(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "newer version"),
        ({"format": "other"}, "holds weights but no t2t_vit run"),
        ({"followers": 3}, "lacks followers"),
        ({"step": 4.0}, "lacks step"),
    ],
)
def test_what_holds_no_run_is_one_sentence(path: Path, change: dict[str, Any], sentence: str) -> None:
    torch.save({**content(), **change}, path)
    with pytest.raises(UserError, match=sentence):
        read_saved_run(path)


SCORES = {"loss": 0.5, "top1": 0.5, "top5": 1.0, "count": 20}
ENTRY = {"file": "t2t_vit_7-1_4.ckpt", "step": 4, "top1": 0.5, "loss": 0.5}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"step": -5}, "step is -5"),
        ({"step": 2**70}, "step is 118"),
        ({"epoch": "three"}, "epoch is three"),
        ({"epoch": 0}, "epoch is 0"),
        ({"data": {"train_images": -1}}, "data.train_images is -1"),
        ({"data": {"updates_per_epoch": 0}}, "data.updates_per_epoch is 0"),
        ({"data": {"processes": 1.5}}, "data.processes is 1.5"),
        ({"run": [1]}, "run is not a dictionary"),
        ({"run": {"id": 7}}, "run.id is 7"),
        ({"progress": {"lr": math.nan}}, "progress.lr is nan"),
        ({"progress": {"lr": True}}, "progress.lr is True"),
        ({"progress": {"closed_at": 8}}, "progress.closed_at is 8"),
        ({"progress": {"evaluated_at": -2}}, "progress.evaluated_at is -2"),
        ({"progress": {"ended": 1}}, "progress.ended is 1"),
        ({"progress": {"step": 1}}, "progress.step is not an entry of a run"),
        ({"progress": {3: 1}}, "progress.3 is not an entry of a run"),
        ({"classes": ["cat", 3]}, "a name of a class is not text"),
        ({"scaler": {"scale": 3.0}}, "scaler is {'scale': 3.0}"),
        ({"model": {"a": 3}}, "model is not a state dict of tensors"),
        ({"ema": [torch.zeros(1)]}, "ema is not a state dict of tensors"),
        ({"metrics": {"step": 9}}, "metrics.step is 9"),
        ({"metrics": {"raw": {**SCORES, "top1": 2}}}, "metrics.raw.top1 is 2"),
        ({"metrics": {"raw": {**SCORES, "other": 2}}}, "metrics.raw.other is not an entry of a run"),
        ({"metrics": {"raw": {"loss": 0.5}}}, "metrics.raw lacks a score"),
        ({"metrics": {"raw": 3}}, "metrics.raw is not a dictionary"),
        ({"best": {"raw": ENTRY}}, "best.raw is not a list"),
        ({"best": {"raw": [3]}}, "best.raw is not a dictionary"),
        ({"best": {"raw": [{**ENTRY, "file": "../a"}]}}, "best.raw.file is ../a"),
        ({"best": {"raw": [{"file": "a"}]}}, "best.raw has an entry without file, step or loss"),
        ({"best": {"raw": [{**ENTRY, "loss": "low"}]}}, "best.raw.loss is low"),
        ({"followers": {"a": 3}}, "followers.a is not a state"),
        ({"progress": {"lr": "\x1b[2J"}}, r"progress.lr is \x1b[2J"),
    ],
)
def test_entries_that_no_run_writes_are_one_sentence(path: Path, change: dict[str, Any], sentence: str) -> None:
    torch.save({**content(), **change}, path)
    with pytest.raises(UserError, match=re.escape(f"{path}: its run cannot be continued: {sentence}")) as caught:
        read_saved_run(path)
    assert str(caught.value).isprintable()


def test_what_runs_write_is_taken(path: Path) -> None:
    whole = {
        "epoch": 2,
        "run": {"id": "1d", "name": "a", "folder": "a-2"},
        "data": {"train_images": 5, "train_files": 2**56 - 1, "updates_per_epoch": 4},
        "progress": {"lr": 0.0, "evaluated_at": -1, "closed_at": 7, "ended": True},
        "metrics": {"step": 7, "raw": SCORES, "ema": {**SCORES, "loss": math.nan, "macro_f1": 0.1}},
        "best": {"raw": [ENTRY], "ema": []},
        "ema": None,
        "scaler": {"scale": torch.tensor(1.0), "good": torch.tensor(3)},
        "followers": {"Progress": {"recent": {}}},
    }
    torch.save({**content(), **whole}, path)
    assert read_saved_run(path).content["best"] == whole["best"]


@pytest.mark.parametrize(
    ("head", "advice"),
    [(b"<!doctype html>", "such as last.ckpt, or auto"), (b"\x08\x07\x12\x07pytorch", "such as last.ckpt, or auto"),
     (b"\x08" + bytes(7) + b"{}      ", "starts a new run from its weights")],
)  # fmt: skip
def test_only_a_file_of_weights_is_recommended_for_a_new_run(path: Path, head: bytes, advice: str) -> None:
    """A page and an ONNX file hold none; a safetensors file does."""
    path.write_bytes(head)
    with pytest.raises(UserError, match=f"is not a checkpoint of a t2t_vit run, .*{advice}"):
        read_saved_run(path)


def test_a_folder_is_told_of_the_files_in_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder; give a checkpoint in it, such as last.ckpt"):
        read_saved_run(tmp_path)
