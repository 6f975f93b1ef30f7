"""Tensors into a model whose head, grid or channels may differ, with a report of what was done."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT
from t2t_vit.model.inputs import PositionPolicy, resized_table
from t2t_vit.weights.description import HEAD, POSITIONS, Channels, channel_layers
from t2t_vit.weights.location import Source
from t2t_vit.weights.reading import Which, read_weights

_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """A tensor that was not taken as it is: its shape in the file, its shape in the model, and what was done."""

    name: str
    there: tuple[int, ...]
    here: tuple[int, ...]
    how: str

    def __str__(self) -> str:
        return f"{self.name} {_sides(self.there)} -> {_sides(self.here)}"


@dataclass(frozen=True)
class FitReport:
    """What became of each tensor, by name.

    Attributes:
        chosen: "ema" or "raw", the copy that was loaded.
        loaded: taken as they are.
        resized: the position table, computed again or resized for another grid.
        adapted: folded or spread over another number of input channels.
        new: not in the file, or of another shape: left as they were initialised.
        unused: in the file, but not in the model.
        state: in the file, of its training: an optimizer's slots, counters.
        changes: from what to what those were changed that are resized or adapted.
    """

    chosen: str
    loaded: tuple[str, ...]
    resized: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        """One line: how many tensors were loaded, and what happened to the others."""
        parts = [f"{len(self.loaded)} tensors loaded ({self.chosen} weights)"]
        for how in dict.fromkeys(change.how for change in self.changes):
            parts.append(f"{some([str(change) for change in self.changes if change.how == how])} {how}")
        for word, names in (("newly initialised", self.new), ("unused", self.unused)):
            if names:
                parts.append(f"{some(names)} {word}")
        if self.state:
            parts.append(f"{len(self.state)} entries of the training state left out")
        return "; ".join(parts)


def some(names: Sequence[str]) -> str:
    """The first few names, in full up to a length that fits a line."""
    return ", ".join(name[:80] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "single"


@dataclass(frozen=True)
class _Fitting:
    """One load: the model, what it gets, and how the two may differ."""

    model: T2TViT
    state: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    path: str | Path
    position: PositionPolicy
    partial: bool

    def differs(self, name: str) -> bool:
        return name in self.tensors and self.tensors[name].shape != self.state[name].shape

    def change(self, name: str, how: str) -> Change:
        return Change(name, tuple(self.tensors[name].shape), tuple(self.state[name].shape), how)


def load_weights(
    model: T2TViT,
    path: Source,
    *,
    which: Which = "auto",
    position: PositionPolicy = "rebuild",
    partial: bool = False,
) -> FitReport:
    """Load weights of any origin into `model`, with any number of classes, image size and input channels.

    Args:
        model: changed in place; unchanged if an error is raised.
        path: a checkpoint of this package, the authors or mmpretrain, any state dict with these names, safetensors, a
            MindSpore `.ckpt`, a folder with `model.safetensors`, the name of a variant for the authors'
            released weights, the bytes of such a file, or an open file.
        which: "auto", "ema" or "raw", for files that hold both.
        position: for another grid, "rebuild" computes the position table again, as the authors do for training,
            "resize" interpolates the stored one (bicubic, class row kept), as they do for loading.
        partial: allow missing tensors and other shapes; without it, only for the head.

    Raises:
        UserError: the file holds no weights, or those of another network.
    """
    weights = read_weights(path, which)
    return fit(
        model,
        weights.tensors,
        path=path if isinstance(path, str | Path) else weights.path,
        chosen=weights.chosen,
        position=position,
        partial=partial,
        state=weights.state,
    )


def fit(
    model: T2TViT,
    tensors: Mapping[str, Tensor],
    *,
    path: str | Path,
    chosen: str = "raw",
    position: PositionPolicy = "rebuild",
    partial: bool = False,
    state: tuple[str, ...] = (),
) -> FitReport:
    """Copy `tensors` into `model`; see `load_weights`. `state` names what else the file holds, for the report.

    The head is left as it is when its class count differs.
    """
    if position not in ("rebuild", "resize"):
        raise UserError(f"position '{position}' is not known; rebuild or resize the position table")
    job = _Fitting(model, model.state_dict(), tensors, path, position, partial)
    new = _new(job)
    _check_missing(job, new)
    plan, changes = dict[str, Tensor](), list[Change]()
    for name in job.state:
        if name not in new and (fitted := _fitted(job, name, changes)) is not None:
            plan[name] = fitted
    with torch.no_grad():
        for name, tensor in plan.items():
            job.state[name].copy_(tensor)
    changed = {change.name for change in changes}
    return FitReport(
        chosen,
        loaded=tuple(name for name in plan if name not in changed),
        resized=tuple(change.name for change in changes if change.name == POSITIONS),
        adapted=tuple(change.name for change in changes if change.name != POSITIONS),
        new=new,
        unused=tuple(name for name in tensors if name not in job.state),
        state=state,
        changes=tuple(changes),
    )


def _new(job: _Fitting) -> tuple[str, ...]:
    """What stays as it was initialised: the head if it does not fit as a whole, and what may be missing."""
    head_fits = all(name in job.tensors and not job.differs(name) for name in HEAD if name in job.state)
    found = [name for name in job.state if name in HEAD] if not head_fits else []
    if job.partial:
        allowed = {POSITIONS, *channel_layers(job.model.name)}
        found += [
            name
            for name in job.state
            if name not in HEAD and (name not in job.tensors or (job.differs(name) and name not in allowed))
        ]
    return tuple(found)


def _fitted(job: _Fitting, name: str, changes: list[Change]) -> Tensor | None:
    """The tensor for `name`; None where the model's own is right. What had to be changed is added to `changes`."""
    if name not in job.tensors:
        return None  # the position table, which the model has by its formula
    tensor, target = job.tensors[name], job.state[name]
    if not _is_finite(tensor):
        raise UserError(f"{job.path}: {name} is not finite: the training diverged; use an earlier checkpoint")
    if not job.differs(name):
        return tensor
    if name == POSITIONS and tensor.ndim == 3 and tensor.shape[2] == target.shape[2]:
        return _positions(job, changes)
    layer = channel_layers(job.model.name).get(name)
    if layer and layer.count(tuple(tensor.shape), tuple(target.shape)):
        changes.append(job.change(name, "adapted to the input channels"))
        return adapt_channels(tensor, job.model.in_chans, layer)
    there, here = tuple(tensor.shape), tuple(target.shape)
    raise UserError(f"{job.path}: does not fit {job.model.name}: {name} is {there} there and {here} in the model")


def _positions(job: _Fitting, changes: list[Change]) -> Tensor:
    """The table for the model's grid. By the formula the model's own is right already."""
    if job.position == "rebuild":
        changes.append(job.change(POSITIONS, "computed again for this image size"))
        return job.state[POSITIONS]
    resized = resize_positions(job.tensors[POSITIONS], job.model.grid)
    if resized is None:
        raise UserError(
            f"{job.path}: its {job.tensors[POSITIONS].shape[1] - 1} positions form no square, so the grid that they "
            'are for is unknown and they cannot be resized; position="rebuild" computes them again'
        )
    changes.append(job.change(POSITIONS, "resized to this image size"))
    return resized


def _is_finite(tensor: Tensor) -> bool:
    # The sum costs no memory; only where it is not finite, which an overflow can cause too, does each value count.
    total = tensor.sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return bool(total.isfinite()) or bool(tensor.isfinite().all())


def _check_missing(job: _Fitting, new: Iterable[str]) -> None:
    optional = {*HEAD, POSITIONS, *new}
    missing = [name for name in job.state if name not in job.tensors and name not in optional]
    if missing:
        raise UserError(
            f"{job.path}: lacks {len(missing)} of the {len(job.state)} tensors of {job.model.name} ({some(missing)}); "
            "it was truncated or belongs to another network"
        )
    if job.partial and not any(name in job.tensors for name in job.state):
        raise UserError(f"{job.path}: holds no tensor of {job.model.name}")


def adapt_channels(tensor: Tensor, in_chans: int, layer: Channels) -> Tensor:
    """Spread or fold the axis that is channels times window, channels first, to `in_chans` channels.

    Channel c of the result is channel c modulo the old count of the old ones; a single channel is their mean. The
    columns of a linear layer or convolution are scaled by old / new, so that its outputs keep their size: a grey
    image gives the outputs that it gave when repeated in every channel, as far as the norm treated the channels
    alike.

    Args:
        tensor: a norm's vector, a linear layer's matrix or a convolution's kernel with old * window entries on the
            axis.

    Returns:
        The same with in_chans * window entries.
    """
    last = tensor.movedim(layer.axis, -1)
    old = last.reshape(*last.shape[:-1], -1, layer.window)  # (..., old, window)
    count = old.shape[-2]
    repeated = old.index_select(-2, torch.arange(in_chans) % count)  # (..., in_chans, window)
    spread = old.mean(dim=-2, keepdim=True) if in_chans == 1 else repeated
    scale = count / in_chans if tensor.ndim > 1 else 1.0
    return (spread * scale).flatten(-2).movedim(-1, layer.axis)


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """The stored table, its class row kept and its square of patch rows resized (bicubic) to `grid`.

    Args:
        table: (1, 1 + side * side, dim).
        grid: (height, width) in tokens.

    Returns:
        (1, 1 + height * width, dim), or None where the stored rows form no square.
    """
    side = math.isqrt(max(0, table.shape[1] - 1))
    if side == 0 or side * side != table.shape[1] - 1:
        return None
    return resized_table(table, (side, side), grid)
