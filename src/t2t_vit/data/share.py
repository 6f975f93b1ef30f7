"""A global batch and the part of it that one process has."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Samples number `first` to `first + count - 1` of the `size` that all processes have together.

    Attributes:
        batch: which batch of its epoch it is, from 0.
    """

    batch: int
    first: int
    count: int
    size: int

    @property
    def own(self) -> Positions:
        """The positions of this process in the global batch."""
        return np.arange(self.first, self.first + self.count)

    @property
    def strangers(self) -> Positions:
        """Partners of its own samples that are another process's: none where `first` and `count` are even."""
        wanted = partners(self.own, self.size)
        return wanted[(wanted < self.first) | (wanted >= self.first + self.count)]

    def partner_rows(self) -> Positions:
        """Where each own sample's partner lies in a batch of `own`, then `strangers`."""
        rows = {position: row for row, position in enumerate([*self.own.tolist(), *self.strangers.tolist()])}
        return np.array([rows[position] for position in partners(self.own, self.size).tolist()], np.int64)


def partners(positions: Positions, size: int) -> Positions:
    """The sample that each is mixed with: neighbours 2 j and 2 j + 1; the last of an odd number is left with itself."""
    neighbours = positions ^ 1
    return np.where(neighbours < size, neighbours, positions)
