"""Any file of weights -> names and tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.weights.kind import Kind, file_kind

Which = Literal["auto", "ema", "raw"]

# Where training programs put the weights, and which of the two kinds they are; the first that is there is taken.
_FOREIGN_HOMES: tuple[tuple[str, Literal["ema", "raw"]], ...] = (
    ("state_dict_ema", "ema"),
    ("state_dict", "raw"),
    ("net", "raw"),
    ("model", "raw"),
)
# Wrappers that leave their name in front of every key.
_WRAPPERS = ("module.", "_orig_mod.")
_NEWEST_VERSION = 1

_REFUSALS: dict[Kind, str] = {
    "mindspore": "is a MindSpore checkpoint; reading those is not available in this version",
    "encrypted mindspore": "is an encrypted MindSpore checkpoint; decrypt it with MindSpore (dec_key) first",
    "mindir": "is a MINDIR model; reading those is not available in this version",
    "onnx": "is an ONNX model: infer runs it, but it holds no weights to load; name the checkpoint it was made of",
    "text": "is a text file, not a checkpoint",
    "tar": "is a real tar archive; unpack it and name the checkpoint inside ('.pth.tar' files of torch are not tars)",
    "gzip": "is compressed with gzip; unpack it first",
    "unknown": "is not a checkpoint: neither a file of torch.save nor safetensors",
}


@dataclass(frozen=True)
class Weights:
    """The tensors of one network under the original's names, and what the file says about them.

    Attributes:
        path: the file.
        tensors: state dict without the prefixes of wrappers; values as saved, on the CPU.
        chosen: which of a file's two copies this is: the moving average ("ema") or the trained weights ("raw").
        config: the flat configuration that our own checkpoints carry, else None.
        classes: names of the classes in the order of the logits, where the file knows them.
    """

    path: Path
    tensors: Mapping[str, Tensor] = field(repr=False)
    chosen: Literal["ema", "raw"] = "raw"
    config: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None


def read_weights(path: str | Path, which: Which = "auto") -> Weights:
    """Weights from a checkpoint of ours, a file of the authors' or anybody's `torch.save`, or safetensors.

    Of a foreign file `state_dict_ema` is preferred to `state_dict`, `net`, `model` and a bare state dict. Of ours,
    "auto" takes the moving average unless the trained weights scored higher when the checkpoint was written.

    Args:
        path: the file; its kind is told by its content.
        which: "ema" or "raw" to insist on one of two copies.

    Raises:
        UserError: no such file, not a file of weights, damaged, or without the copy that was asked for.
    """
    kind = file_kind(path)
    if kind in _REFUSALS:
        raise UserError(f"{path}: {_REFUSALS[kind]}")
    if kind == "safetensors":
        return _foreign(Path(path), _read_safetensors(path), which)
    from t2t_vit.weights.torch_file import read_torch_file

    content = read_torch_file(path)
    if isinstance(content, Mapping) and content.get("format") == "t2t_vit":
        return _ours(Path(path), content, which)
    return _foreign(Path(path), content, which)


def _ours(path: Path, content: Mapping[str, Any], which: Which) -> Weights:
    if not isinstance(content.get("version"), int) or content["version"] > _NEWEST_VERSION:
        raise UserError(f"{path}: was written by a newer version of t2t_vit; upgrade with pip install -U t2t_vit")
    chosen = _best(content) if which == "auto" else which
    tensors = _state_dict(content.get("ema" if chosen == "ema" else "model"))
    if tensors is None:
        raise UserError(f"{path}: holds no {chosen} weights; it was trained with with_ema: False")
    classes = content.get("classes")
    return Weights(path, tensors, chosen, content.get("config"), tuple(map(str, classes)) if classes else None)


def _best(content: Mapping[str, Any]) -> Literal["ema", "raw"]:
    if not content.get("ema"):
        return "raw"
    metrics = content.get("metrics") or {}
    raw, ema = ((metrics.get(name) or {}).get("top1", 0.0) for name in ("raw", "ema"))
    return "raw" if raw > ema else "ema"


def _foreign(path: Path, content: Any, which: Which) -> Weights:
    homes = content if isinstance(content, Mapping) else {}
    for key, kind in _FOREIGN_HOMES:
        if which in ("auto", kind) and (tensors := _state_dict(homes.get(key))) is not None:
            return Weights(path, tensors, kind)
    if which == "ema":
        raise UserError(f"{path}: holds no ema weights (no 'state_dict_ema')")
    if (tensors := _state_dict(content)) is None:
        homes_named = ", ".join(f"'{key}'" for key, _ in _FOREIGN_HOMES)
        raise UserError(f"{path}: holds no weights: neither {homes_named} nor a bare state dict of tensors")
    return Weights(path, tensors)


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    """`content` as names and tensors without prefixes; None if it is anything else."""
    if not isinstance(content, Mapping) or not content:
        return None
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()):
        return None
    return {_bare(name): tensor.detach() for name, tensor in content.items()}


def _bare(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _read_safetensors(path: str | Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path}: is a damaged safetensors file, cut short perhaps ({error})") from error
