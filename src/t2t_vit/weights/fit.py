"""Tensors into a model whose head, grid or channels may differ, with a report of what was done."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT
from t2t_vit.weights.channels import adapt_channels, sees_channels
from t2t_vit.weights.read import Which, read_weights

_HEAD = ("head.weight", "head.bias")
_POSITIONS = "pos_embed"


@dataclass(frozen=True)
class Report:
    """What became of each tensor, by name.

    Attributes:
        chosen: "ema" or "raw", the copy that was loaded.
        loaded: taken as they are.
        resized: the position table, computed anew for another grid.
        adapted: folded or spread over another number of input channels.
        new: not in the file, or of another class count: freshly initialised.
        unused: in the file, but not in the model.
    """

    chosen: str
    loaded: tuple[str, ...]
    resized: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: how many tensors were loaded, and what happened to the others."""
        parts = [f"{len(self.loaded)} tensors loaded ({self.chosen} weights)"]
        for word, names in (
            ("computed anew for this image size", self.resized),
            ("adapted to the input channels", self.adapted),
            ("newly initialised", self.new),
            ("unused", self.unused),
        ):
            if names:
                parts.append(f"{_some(names)} {word}")
        return "; ".join(parts)


def load_weights(model: T2TViT, path: str | Path, *, which: Which = "auto") -> Report:
    """Load a file of weights into `model`, whatever its class count, image size and input channels.

    Args:
        model: filled in place; nothing is changed when an error is raised.
        path: a checkpoint of ours, of the authors', any state dict of these names, or safetensors.
        which: "auto", "ema" or "raw", for files that hold both.

    Raises:
        UserError: the file is no file of weights, or of another network.
    """
    weights = read_weights(path, which)
    return fit(model, weights.tensors, path=path, chosen=weights.chosen)


def fit(model: T2TViT, tensors: Mapping[str, Tensor], *, path: str | Path, chosen: str = "raw") -> Report:
    """Copy `tensors` into `model`; see `load_weights`.

    The head is left as it is when its class count differs. The position table is fixed by a formula, so for another
    grid the model's own is right and nothing is interpolated.
    """
    state: dict[str, Tensor] = model.state_dict()
    _check_names(model.name, state, tensors, path)
    head_fits = all(name in tensors and tensors[name].shape == state[name].shape for name in _HEAD)
    grid_fits = _POSITIONS in tensors and tensors[_POSITIONS].shape == state[_POSITIONS].shape
    kept = (() if head_fits else _HEAD) + (() if grid_fits else (_POSITIONS,))
    plan = {name: _fitted(model, name, tensors[name], state[name], path) for name in state if name not in kept}
    with torch.no_grad():
        for name, tensor in plan.items():
            state[name].copy_(tensor)
    adapted = tuple(name for name in plan if tensors[name].shape != state[name].shape)
    return Report(
        chosen,
        loaded=tuple(name for name in plan if name not in adapted),
        resized=() if grid_fits else (_POSITIONS,),
        adapted=adapted,
        new=() if head_fits else _HEAD,
        unused=tuple(name for name in tensors if name not in state),
    )


def _fitted(model: T2TViT, name: str, tensor: Tensor, target: Tensor, path: str | Path) -> Tensor:
    if not _is_finite(tensor):
        raise UserError(f"{path}: {name} is not finite: that training diverged; take an earlier checkpoint")
    if tensor.shape == target.shape:
        return tensor
    window = model.variant.splits[0].kernel ** 2
    if sees_channels(name, tensor, target, window):
        return adapt_channels(tensor, model.in_chans, window)
    there, here = tuple(tensor.shape), tuple(target.shape)
    raise UserError(f"{path}: does not fit {model.name}: {name} is {there} there and {here} in the model")


def _is_finite(tensor: Tensor) -> bool:
    # The sum costs no memory; only where it is not finite, which an overflow can cause too, does each value count.
    total = tensor.sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return bool(total.isfinite()) or bool(tensor.isfinite().all())


def _check_names(arch: str, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    optional = (*_HEAD, _POSITIONS)
    missing = [name for name in state if name not in tensors and name not in optional]
    if missing:
        raise UserError(
            f"{path}: lacks {len(missing)} of the {len(state)} tensors of {arch} ({_some(missing)}); "
            "it was cut or belongs to another network"
        )


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
