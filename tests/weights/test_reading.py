"""Files of weights of every origin, told apart by content."""

import argparse
import io
import pickle
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import t2t_vit
from t2t_vit.errors import UserError
from t2t_vit.formats.safetensors_file import write_safetensors_file
from t2t_vit.formats.torch_archive import read_torch_archive
from t2t_vit.weights import file_kind, read_weights
from t2t_vit.weights.reading import plain_classes, plain_config

TENSORS = {"cls_token": torch.arange(4.0).reshape(1, 1, 4), "head.bias": torch.ones(2)}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def scaled(factor: float) -> dict[str, Tensor]:
    return {name: tensor * factor for name, tensor in TENSORS.items()}


def one_sentence(error: pytest.ExceptionInfo[UserError], path: Path) -> str:
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 300
    return text


def test_of_the_authors_file_the_moving_average_is_taken(tmp_path: Path) -> None:
    content = {
        "epoch": 309,
        "arch": "t2t_vit_14",
        "state_dict": scaled(2.0),
        "state_dict_ema": {f"module.{name}": tensor for name, tensor in scaled(3.0).items()},
        "args": argparse.Namespace(lr=5e-4, model="T2t_vit_14", mean=[0.485], extra={"nested": (1, None)}),
        "metric": np.float64(81.5),
        "counts": [np.int64(3), np.float32(0.5), np.bool_(True)],
    }
    path = saved(tmp_path / "81.5_T2T_ViT_14.pth.tar", content)
    weights = read_weights(path)
    assert weights.chosen == "ema" and weights.config is None and weights.classes is None
    assert torch.equal(weights.tensors["cls_token"], TENSORS["cls_token"] * 3)
    raw = read_weights(path, "raw")
    assert raw.chosen == "raw" and torch.equal(raw.tensors["cls_token"], TENSORS["cls_token"] * 2)


@pytest.mark.parametrize("home", ["state_dict_ema", "ema_state_dict", "model_ema"])
def test_every_home_of_a_moving_average(tmp_path: Path, home: str) -> None:
    path = saved(tmp_path / "w.pth", {"model": TENSORS, home: scaled(3.0)})
    weights = read_weights(path)
    assert (weights.chosen, weights.copies) == ("ema", ("ema", "raw"))
    assert torch.equal(weights.tensors["cls_token"], TENSORS["cls_token"] * 3)
    assert torch.equal(read_weights(path, "raw").tensors["cls_token"], TENSORS["cls_token"])


def test_of_several_homes_the_first_is_taken(tmp_path: Path) -> None:
    homes = ("state_dict", "net", "model")
    for number, first in enumerate(homes):
        later = {home: scaled(2.0) for home in reversed(homes[number + 1 :])}
        weights = read_weights(saved(tmp_path / "w.pth", {**later, first: scaled(5.0)}))
        assert torch.equal(weights.tensors["cls_token"], TENSORS["cls_token"] * 5)


@pytest.mark.parametrize("home", ["state_dict", "net", "model"])
def test_every_home_and_every_wrapper(tmp_path: Path, home: str) -> None:
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in TENSORS.items()}
    weights = read_weights(saved(tmp_path / "w.pth", {home: wrapped, "acc": 98.3, "epoch": 59}))
    assert list(weights.tensors) == list(TENSORS) and weights.chosen == "raw"


def test_a_bare_state_dict_with_parameters(tmp_path: Path) -> None:
    bare = {name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items()}
    weights = read_weights(saved(tmp_path / "w.pth", bare))
    assert all(torch.equal(weights.tensors[name], TENSORS[name]) for name in TENSORS)
    assert not any(tensor.requires_grad for tensor in weights.tensors.values())


def test_the_stream_of_old_torch_versions(tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pth", TENSORS, _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(path).tensors["cls_token"], TENSORS["cls_token"])


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    save_file(TENSORS, path)
    assert file_kind(path) == "safetensors"
    assert torch.equal(read_weights(path).tensors["head.bias"], TENSORS["head.bias"])


def test_what_our_safetensors_say_of_themselves(tmp_path: Path) -> None:
    told = {"config": {"arch": "t2t_vit_7", "mean": [0.1, 0.2]}, "classes": ["cat", "dog"]}
    tensors = {**TENSORS, "half": torch.tensor([[1.5, -2.0], [0.25, 7.0]]).half().T}
    write_safetensors_file(tensors, tmp_path / "w.safetensors", told)
    weights = read_weights(tmp_path / "w.safetensors")
    assert (weights.config, weights.classes) == (told["config"], ("cat", "dog"))
    for name, tensor in tensors.items():
        assert weights.tensors[name].dtype == tensor.dtype and torch.equal(weights.tensors[name], tensor)


def test_absurd_safetensors(tmp_path: Path) -> None:
    header = b"{" + b" " * (5 * 2**20) + b"}"
    (tmp_path / "long").write_bytes(len(header).to_bytes(8, "little") + header)
    save_file({"a\nb": torch.ones(1)}, tmp_path / "name")
    for name, told in (("long", "its header has 5,242,882 bytes"), ("name", "a name is not text")):
        with pytest.raises(UserError, match=told) as error:
            read_weights(tmp_path / name)
        one_sentence(error, tmp_path / name)


KINDS = {
    "text": [
        b"abcdefgh{} is no safetensors",
        b"a" + "é".encode() * 600,  # the first bytes end within a character
        b"<?xml version='1.0'?><note/>",
    ],
    "unknown": [
        b"caf\xe9 in Latin-1",
        b"ET12" + bytes(40),
        (100).to_bytes(8, "little") + b"{\0",
        b"\n\x05hello\0",
        b"\1\1\1" + "€".encode() * 400,  # control characters, and an end within a character
    ],
    "openvino": [b"<?xml version='1.0'?>\n<net name='x'>"],
    "executorch": [b"\x1c\0\0\0ET12" + bytes(40)],
    "tensorrt": [(99).to_bytes(4, "little") + b'{"producer": "t2t_vit 1"}'],
    "mindir": [b"\n\x050.1.1\x12\x09MindSpore", b"\n\x031.0\x12\x07t2t_vit"],
    "onnx": [b"\x08\x0a\x12\x07pytorch", b"\x08\x08:\x00"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_told_by_its_content(tmp_path: Path, kind: str) -> None:
    for content in KINDS[kind]:
        (tmp_path / "x").write_bytes(content)
        assert file_kind(tmp_path / "x") == kind, content


def test_settings_are_taken_where_they_are_flat() -> None:
    flat = {"lr": 5e-4, "name": "x" * 1000, "mean": (0.1, 0.2), "none": None, "flag": True, "many": list(range(16))}
    deep = {"dict": {"a": 1}, "deep": [[1]], "long": list(range(17)), "text": "x" * 1001, 3: "a number"}
    assert plain_config({**flat, **deep}) == {**flat, "mean": [0.1, 0.2]}
    assert plain_config([1]) is plain_config(None) is None
    assert plain_classes(["cat", 7]) == ("cat", "7")
    assert plain_classes([]) is plain_classes("ab") is plain_classes(["a", ["b"]]) is None


def ours(**changes: Any) -> dict[str, Any]:
    content = {
        "format": "t2t_vit",
        "version": 1,
        "config": {"arch": "t2t_vit_7", "num_classes": 2},
        "classes": ["cat", "dog"],
        "model": TENSORS,
        "ema": scaled(5.0),
        "metrics": {},
    }
    return {**content, **changes}


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        ({}, "ema"),
        ({"step": 2, "raw": {"top1": 0.7}, "ema": {"top1": 0.8}}, "ema"),
        ({"step": 2, "raw": {"top1": 0.7}, "ema": {"top1": 0.1}}, "raw"),
        ({"step": 2, "raw": {"top1": 0.7}, "ema": {"top1": 0.7}}, "ema"),
        ({"step": 2, "raw": {"top1": 81.5}, "ema": {"top1": 0.1}}, "ema"),  # a share is at most 1
        ({"step": 2, "raw": {"top1": "0.9"}, "ema": {"top1": 0.1}}, "ema"),
    ],
)
def test_of_our_checkpoint_the_better_copy_is_taken(tmp_path: Path, metrics: dict[str, Any], chosen: str) -> None:
    weights = read_weights(saved(tmp_path / "a-1_2.ckpt", ours(metrics=metrics)))
    assert weights.chosen == chosen and weights.classes == ("cat", "dog")
    assert weights.config == {"arch": "t2t_vit_7", "num_classes": 2}
    factor = 5 if chosen == "ema" else 1
    assert torch.equal(weights.tensors["cls_token"], TENSORS["cls_token"] * factor)


@pytest.mark.parametrize(
    ("best_by", "chosen"),
    [("top1", "ema"), ("loss", "raw"), ("macro_f1", "raw"), ("balanced_accuracy", "ema"), (3, "ema")],
)
def test_the_better_copy_is_the_one_by_which_the_run_was_ranked(tmp_path: Path, best_by: object, chosen: str) -> None:
    metrics = {"raw": {"top1": 0.5, "loss": 1.0, "macro_f1": 0.4}, "ema": {"top1": 0.6, "loss": 2.0, "macro_f1": 0.3}}
    content = ours(metrics={"step": 2, **metrics})
    content["config"] = {**content["config"], "best_by": best_by}
    assert read_weights(saved(tmp_path / "a-1_2.ckpt", content)).chosen == chosen


def test_a_copy_that_is_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", ours(ema=None))
    assert read_weights(path).chosen == "raw"
    with pytest.raises(UserError, match="no ema weights") as error:
        read_weights(path, "ema")
    one_sentence(error, path)
    with pytest.raises(UserError, match="no ema weights"):
        read_weights(saved(tmp_path / "b.pth", {"state_dict": TENSORS}), "ema")


def test_a_checkpoint_of_a_later_version(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="newer version"):
        read_weights(saved(tmp_path / "a.ckpt", ours(version=2)))


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_pickle_never_runs(tmp_path: Path, as_zip: bool) -> None:
    content = {"state_dict": TENSORS, "args": Bomb(tmp_path / "ran")}
    path = saved(tmp_path / "evil.pth", content, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(UserError, match="could run code") as error:
        read_weights(path)
    one_sentence(error, path)
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_never_runs(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))
    with pytest.raises(UserError) as error:
        read_weights(path)
    one_sentence(error, path)
    assert not (tmp_path / "ran").exists()


def mindspore_value(name: bytes, content: bytes) -> bytes:
    """One message of a MindSpore checkpoint: tag, then a tensor of shape [1]."""
    tensor = b"\x08\x01\x12\x07Float32\x1a" + bytes([len(content)]) + content
    value = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(tensor)]) + tensor
    return b"\x0a" + bytes([len(value)]) + value


BROKEN = {
    "text": (b"epochs: 300\narch: t2t_vit_19\n", "text file"),
    "text that begins with a line break": (b"\n\nhello, these are no weights\n", "text file"),
    "empty": (b"", "empty"),
    "noise": (bytes(range(7, 256)) * 9, "not a checkpoint"),
    "a line break and noise": (b"\n" + bytes(range(128, 256)), "not a checkpoint"),
    "zip": (b"PK\x03\x04" + b"\0" * 300, "truncated, damaged"),
    "pickle of protocol 4": (pickle.dumps({"a": 1}, protocol=4), "not a checkpoint"),
    "safetensors cut short": (
        (90).to_bytes(8, "little") + b'{"a":{"dtype":"F32"' + b" " * 80,
        "damaged or truncated safetensors",
    ),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 50, "gzip"),
    "tar": (b"w.pth".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 300, "tar archive"),
    "mindspore, cut short": (mindspore_value(b"cls_token", b"\0" * 4)[:-1], "damaged or truncated"),
    "mindspore, encrypted": (b"\xd8\x5e\x3a\x7f" + b"\1" * 64, "encrypted MindSpore"),
    "mindir": (b"\x0a\x050.1.1\x12\x09MindSpore", "MINDIR model"),
    "onnx": (b"\x08\x0a\x12\x07pytorch", "ONNX"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_checkpoint_is_told_in_one_sentence(tmp_path: Path, case: str) -> None:
    content, expected = BROKEN[case]
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as error:
        read_weights(path)
    one_sentence(error, path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_file_that_was_cut_short(tmp_path: Path, share: float) -> None:
    whole = saved(tmp_path / "whole.pth", {"state_dict": {"a": torch.randn(500)}}).read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="truncated") as error:
        read_weights(path)
    one_sentence(error, path)


def test_a_folder_a_missing_file_and_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_weights(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_weights(tmp_path / "absent.ckpt")
    with pytest.raises(UserError, match="not a regular file"):
        read_weights("/dev/null")


@pytest.mark.parametrize("content", [{"epoch": 3, "acc": 0.5}, [1, 2], 7, {"state_dict": {}}, {"optimizer": {"a": 1}}])
def test_a_torch_file_without_weights(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(saved(tmp_path / "x.pth", content))


def test_deepspeeds_and_lightnings_checkpoints(tmp_path: Path) -> None:
    weights = read_weights(saved(tmp_path / "d.pt", {"module": TENSORS}))
    assert torch.equal(weights.tensors["head.bias"], TENSORS["head.bias"])
    wrapped = {f"model.{name}": tensor for name, tensor in TENSORS.items()}
    for module in ("pytorch_lightning.utilities.parsing", "lightning.fabric.utilities.data"):
        attributes = type("AttributeDict", (dict,), {"__module__": module, "__qualname__": "AttributeDict"})
        holder = ModuleType(module)
        holder.AttributeDict = attributes  # type: ignore[attr-defined]
        content = {"state_dict": wrapped, "hyper_parameters": attributes(lr=0.1, betas=(0.9, 0.99)), "epoch": 3}
        parts = module.split(".")
        parents = {".".join(parts[:depth]): ModuleType(parts[depth - 1]) for depth in range(1, len(parts))}
        with patch.dict(sys.modules, {**parents, module: holder}):
            path = saved(tmp_path / "l.ckpt", content)
        weights = read_weights(path)
        assert all(torch.equal(weights.tensors[name], TENSORS[name]) for name in TENSORS)
        assert read_torch_archive(path)["hyper_parameters"] == {"lr": 0.1, "betas": (0.9, 0.99)}


def test_weights_as_bytes_and_as_an_open_file(tmp_path: Path) -> None:
    torch_file, safe = saved(tmp_path / "x.pth", {"state_dict": TENSORS}), tmp_path / "x.safetensors"
    save_file(TENSORS, safe)
    for path in (torch_file, safe):
        content = path.read_bytes()
        with path.open("rb") as file:
            for source in (content, bytearray(content), memoryview(content), io.BytesIO(content), file):
                weights = read_weights(source)
                assert weights.path == Path("the given bytes")
                assert all(torch.equal(weights.tensors[name], TENSORS[name]) for name in TENSORS)
    with pytest.raises(UserError, match=r"^the given bytes: is empty"):
        read_weights(b"")
    with pytest.raises(UserError, match=r"^the given bytes: is not a checkpoint"):
        read_weights(b"\0\1\2")
    for wrong in (3, None, io.StringIO("x")):
        with pytest.raises(
            UserError, match=r"give weights as a path, as bytes or as a file open in mode 'rb', not as "
        ):
            read_weights(wrong)  # type: ignore[arg-type]


def test_what_training_programs_keep_beside_the_weights(tmp_path: Path) -> None:
    """Lightning's loops, callbacks and schedules; prefixes of wrappers one in the other; every float type."""
    kept = {
        "pytorch-lightning_version": "2.4.0",
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "dims": [1, (2, 3)], "path": tmp_path, "dtype": torch.bfloat16, "none": None},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.5), "kth": None}},
        "lr_schedulers": [{"milestones": Counter({3: 1}), "_step_count": 3, "last_lr": [1e-3]}],
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
        "args": argparse.Namespace(model="t2t_vit_14", scale=[0.8, 1.0]),
        "scaler": {"scale": 65536.0, "_growth_tracker": 3},
        "best": np.float64(0.5),
    }
    for prefix in ("model.", "module.", "_orig_mod.", "module._orig_mod.", "model._orig_mod.", "net.backbone."):
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            tensors = {f"{prefix}{name}": tensor.to(dtype) for name, tensor in TENSORS.items()}
            weights = read_weights(saved(tmp_path / "x.ckpt", {**kept, "state_dict": tensors}))
            assert {name: one.dtype for name, one in weights.tensors.items()} == dict.fromkeys(TENSORS, dtype)


def test_weights_that_were_saved_on_a_gpu(tmp_path: Path) -> None:
    with patch("torch.serialization.location_tag", lambda _: "cuda:3"):
        path = saved(tmp_path / "x.pth", TENSORS)
    assert b"cuda:3" in path.read_bytes()
    assert all(tensor.device.type == "cpu" for tensor in read_weights(path).tensors.values())


@pytest.mark.parametrize("shape", [(10**9, 4), (2**31, 2**20), (3 * 10**7, 4)])
def test_one_element_that_stands_for_too_many_is_refused_and_tied_weights_are_not(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = saved(tmp_path / "x.pth", {**TENSORS, "head.weight": torch.zeros(1).expand(shape)})
    for open_it in (read_weights, t2t_vit.load):
        with pytest.raises(UserError, match=r"x.pth: its tensors claim [\d,]+ bytes, and the file has"):
            open_it(path)
    own = {"format": "t2t_vit", "version": 1, "model": {"cls_token": torch.zeros(1).expand(shape)}}
    with pytest.raises(UserError, match="its tensors claim"):
        read_weights(saved(tmp_path / "own.ckpt", own))
    tied = torch.zeros(2**20)
    assert len(read_weights(saved(tmp_path / "y.pth", {f"a{number}": tied for number in range(40)})).tensors) == 40
    few = torch.zeros(1).expand(2**20)
    assert len(read_weights(saved(tmp_path / "z.pth", {"a": few})).tensors) == 1
