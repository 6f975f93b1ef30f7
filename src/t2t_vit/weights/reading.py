"""Any weights file -> names and tensors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.formats.safetensors_file import read_own_metadata, read_safetensors_file, read_sharded_safetensors
from t2t_vit.formats.torch_archive import read_torch_archive
from t2t_vit.model.folder_config import check_saved_together
from t2t_vit.weights.kind import Kind, file_kind
from t2t_vit.weights.location import GIVEN, WEIGHTS_FILES, Source, find_file, folder_config, given_file
from t2t_vit.weights.mindspore_file import read_mindspore_file
from t2t_vit.weights.names import authors_names, unwrapped
from t2t_vit.weights.torch_file import Copy, check_claims, foreign_copies, state_dict_in

Which = Literal["auto", "ema", "raw"]

NEWEST_VERSION = 1  # of our own checkpoints
_REFUSALS: dict[Kind, str] = {
    "encrypted mindspore": "is an encrypted MindSpore checkpoint; decrypt it with MindSpore (dec_key) first",
    "mindir": "is a MINDIR model, which holds no weights to load; give the checkpoint that it was made from",
    "onnx": "is an ONNX model: infer and eval run it, but it holds no weights to load; give the checkpoint that it was"
    " made from",
    "pt2": "is an exported program: infer and eval run it, but it is not a checkpoint; give the one that it was made"
    " from",
    "aoti": "is compiled code, which holds no weights to load; give the checkpoint that it was made from",
    "openvino": "is an OpenVINO model, which holds no weights to load; give the checkpoint that it was made from",
    "executorch": "is an ExecuTorch program, which holds no weights to load; give the checkpoint that it was made from",
    "tensorrt": "is a TensorRT engine, which holds no weights to load; give the checkpoint that it was made from",
    "torch index": (
        "is the index of several files of torch.save, which are not joined here; save it as safetensors, "
        "or in one file with torch.save(model.state_dict(), path)"
    ),
    "text": "is a text file, not a checkpoint",
    "tar": "is a real tar archive; unpack it and give the checkpoint inside ('.pth.tar' files of torch are not tars)",
    "gzip": "is compressed with gzip; unpack it first",
    "unknown": "is not a checkpoint: neither of torch.save nor safetensors nor MindSpore's",
}

# A configuration of unknown origin is taken only where it is flat: nesting could make a message endless.
_LONGEST_TEXT = 1000
_LARGEST_LOSS = 1e300
_LONGEST_LIST = 16


@dataclass(frozen=True)
class Weights:
    """The tensors of one network under the original's names, and what the file says about them.

    Attributes:
        path: the file.
        tensors: state dict under the authors' names; values as saved, on the CPU.
        chosen: which of a file's two copies this is: the moving average ("ema") or the trained weights ("raw").
        config: the flat configuration that our own checkpoints and folders of the hub's layout carry, else None.
        classes: names of the classes in the order of the logits, where the file knows them.
        kind: what the file is.
        copies: which copies the file holds.
        state: names of what belongs to the training (an optimizer's slots, counters), of a MindSpore checkpoint.
        unread: keys of a folder's `config.json` that have no meaning here.
    """

    path: Path
    tensors: Mapping[str, Tensor] = field(repr=False)
    chosen: Copy = "raw"
    config: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    kind: Kind = "torch"
    copies: tuple[Copy, ...] = ("raw",)
    state: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """What a file offers: copies that are read when they are asked for, the preferred one first."""

    copies: Mapping[Copy, Callable[[], Mapping[str, Tensor]]]
    config: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    state: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    lacking_ema: str = "no 'state_dict_ema'"


def read_weights(source: Source, which: Which = "auto") -> Weights:
    """Weights from a file of any origin, recognised by its content, under the authors' names.

    Of a foreign file the moving average (`state_dict_ema`) is preferred to `state_dict`, `net`, `model` and a bare
    state dict. Of ours, "auto" takes the moving average unless the trained weights scored higher when the checkpoint
    was written. Nothing in the file is run.

    Args:
        source: a file of torch.save, ours or anybody's, safetensors, or MindSpore's `.ckpt`; a folder with
            `model.safetensors`, or that file in it; a variant's name, which stands for the authors' released weights;
            or the bytes of such a file, or the file, open.
        which: "ema" or "raw" to insist on one of two copies.

    Raises:
        UserError: no such file, not a weights file, damaged, or without the copy that was asked for.
    """
    with given_file(source) as path:
        weights = _read(path, which)
        return weights if path is source else replace(weights, path=Path(GIVEN))


def _read(path: str | Path, which: Which) -> Weights:
    kind, file = file_kind(path), find_file(path)
    if kind in _REFUSALS:
        raise UserError(f"{path}: {_REFUSALS[kind]}")
    content = _READERS[kind](file)
    # A file of such a name, given itself or found in its folder, has a configuration beside it.
    stated = folder_config(file.parent) if file.name in WEIGHTS_FILES else None
    if stated is not None:
        if stated.arch is not None:
            content = replace(content, config=stated.flat())
        content = replace(content, classes=stated.classes or content.classes, unread=stated.unread)
    chosen: Copy = next(iter(content.copies)) if which == "auto" else which
    if chosen not in content.copies:
        lacking = f" ({content.lacking_ema})" if chosen == "ema" else ""
        raise UserError(f"{path}: holds no {chosen} weights{lacking}")
    tensors = authors_names(content.copies[chosen]())
    if stated is not None and file.name == WEIGHTS_FILES[0]:
        check_saved_together(file.parent, stated, file)
    if kind == "torch":
        check_claims(file, tensors.values())
    return Weights(
        file,
        tensors,
        chosen,
        content.config,
        content.classes,
        kind,
        tuple(content.copies),
        content.state,
        content.unread,
    )


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of any network's file, the moving average first, under the names that they have in it.

    The names of wrappers (`module.`) are dropped. Nothing in the file is run.

    Args:
        path: a file of torch.save or safetensors, or a folder with one, as of `read_weights`.

    Raises:
        UserError: no such file, not a weights file, or damaged.
    """
    kind, file = file_kind(path), find_file(path)
    if kind in _REFUSALS:
        raise UserError(f"{path}: {_REFUSALS[kind]}")
    tensors = next(iter(_READERS[kind](file).copies.values()))()
    if kind == "torch":
        check_claims(file, tensors.values())
    return {unwrapped(name): tensor for name, tensor in tensors.items()}


def _torch(path: Path) -> _Content:
    content = read_torch_archive(path)
    if isinstance(content, dict) and content.get("format") == "t2t_vit":
        return _ours(path, content)
    return _Content({kind: partial(dict, tensors) for kind, tensors in foreign_copies(path, content).items()})


def _ours(path: Path, content: Mapping[str, Any]) -> _Content:
    version = content.get("version")
    if type(version) is not int or version > NEWEST_VERSION:
        raise UserError(f"{path}: was written by a newer version of t2t_vit; update t2t_vit")
    kinds: tuple[tuple[Copy, str], ...] = (("ema", "ema"), ("raw", "model"))
    found = {kind: stored for kind, key in kinds if (stored := state_dict_in(content.get(key)))}
    if _score(content, "raw") > _score(content, "ema"):
        found = dict(reversed(found.items()))
    if not found:
        raise UserError(f"{path}: holds no weights: neither 'model' nor 'ema'")
    return _Content(
        {kind: partial(dict, stored) for kind, stored in found.items()},
        plain_config(content.get("config")),
        plain_classes(content.get("classes")),
        lacking_ema="the run keeps no average, or had not begun one",
    )


def _score(content: Mapping[str, Any], copy: Copy) -> float:
    """How good the copy was by what the run was ranked by, the larger the better; -inf where nobody knows."""
    config, metrics = content.get("config"), content.get("metrics")
    best_by = config.get("best_by", "top1") if type(config) is dict else "top1"
    of_copy = metrics.get(copy) if type(metrics) is dict else None
    value = of_copy.get(best_by) if type(of_copy) is dict and type(best_by) is str else None
    largest = _LARGEST_LOSS if best_by == "loss" else 1
    if not isinstance(value, int | float) or not abs(value) <= largest:  # NaN is not
        return -math.inf
    return -float(value) if best_by == "loss" else float(value)


def _safetensors(path: Path) -> _Content:
    metadata = read_own_metadata(path)
    config, classes = plain_config(metadata.get("config")), plain_classes(metadata.get("classes"))
    return _Content({"raw": lambda: read_safetensors_file(path)}, config, classes)


def _sharded(path: Path) -> _Content:
    return _Content({"raw": partial(read_sharded_safetensors, path)})


def _mindspore(path: Path) -> _Content:
    found = read_mindspore_file(path)
    copies: dict[Copy, Callable[[], Mapping[str, Tensor]]] = {"ema": lambda: found.ema} if found.ema else {}
    return _Content({**copies, "raw": lambda: found.raw}, state=found.state, lacking_ema="no parameters 'ema.*'")


_READERS: dict[Kind, Callable[[Path], _Content]] = {
    "torch": _torch,
    "safetensors": _safetensors,
    "safetensors index": _sharded,
    "mindspore": _mindspore,
}


def holds_weights(kind: Kind) -> bool:
    """Whether `read_weights` opens files of this kind."""
    return kind in _READERS


def plain_config(found: Any) -> dict[str, Any] | None:
    """The entries of a configuration whose values are single values or short lists of them; None if it is none."""
    if type(found) is not dict:
        return None
    return {
        key: list(value) if type(value) is tuple else value
        for key, value in found.items()
        if type(key) is str and (_is_single(value) or _is_short_list(value))
    }


def plain_classes(found: Any) -> tuple[str, ...] | None:
    """Names of classes, or None where these are none."""
    if type(found) not in (list, tuple) or not found or not all(_is_single(name) for name in found):
        return None
    return tuple(str(name) for name in found)


def _is_single(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= _LONGEST_TEXT
    return value is None or type(value) in (bool, int, float)


def _is_short_list(value: Any) -> bool:
    return type(value) in (list, tuple) and len(value) <= _LONGEST_LIST and all(_is_single(item) for item in value)
