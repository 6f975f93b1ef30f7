"""What became of each tensor of a file."""

from collections.abc import Sequence
from dataclasses import dataclass

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
class Report:
    """What became of each tensor, by name.

    Attributes:
        chosen: "ema" or "raw", the copy that was loaded.
        loaded: taken as they are.
        resized: the position table, computed anew or resized for another grid.
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
            parts.append(f"{len(self.state)} entries of the training's state left aside")
        return "; ".join(parts)


def some(names: Sequence[str]) -> str:
    """The first few names, in full up to a length that fits a line."""
    return ", ".join(name[:80] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "single"
