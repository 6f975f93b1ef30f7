"""Random numbers as a function of (seed, epoch, index, purpose): nothing to carry along, save or restore.

A 64-bit key is mixed from the four (SplitMix64, Steele, Lea and Flood 2014, OOPSLA), for a whole batch at once; the
n-th number of a key is its n-th SplitMix64 output. What a sample draws therefore does not depend on the batch it is in,
on the process or on the worker that draws it.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


class Purpose(IntEnum):
    """Who draws: two purposes never share numbers. The values are part of a run's identity; do not renumber."""

    SUBSET = 1
    ORDER = 2
    TRANSFORM = 3
    POLICY = 4
    REPLACE = 5
    ERASE = 6
    ERASE_NOISE = 7
    MIX = 8


def keys(seed: int, epoch: int, indices: Sequence[int] | NDArray[np.int64], purpose: Purpose) -> Keys:
    """One key a sample: (N,) uint64."""
    stem = _mix(np.array([(seed + purpose * _GOLDEN) & _MASK], dtype=np.uint64))
    stem = _mix(stem + np.uint64((epoch + 1) * _GOLDEN & _MASK))
    steps = (np.asarray(indices, dtype=np.int64).astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return _mix(stem + steps)


def key(seed: int, epoch: int, index: int, purpose: Purpose) -> int:
    """The key of one sample, an integer below 2^64."""
    return int(keys(seed, epoch, [index], purpose)[0])


def uniforms(keys: Keys, count: int) -> NDArray[np.float64]:
    """(N,) keys -> (N, count) numbers in [0, 1)."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _mix(keys[:, None] + steps) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def normals(keys: Keys, count: int) -> NDArray[np.float64]:
    """(N,) keys -> (N, count) standard normal numbers (Box and Muller 1958)."""
    pairs = uniforms(keys, 2 * count)
    radius = np.sqrt(-2.0 * np.log1p(-pairs[:, :count]))
    numbers: NDArray[np.float64] = radius * np.cos(2.0 * np.pi * pairs[:, count:])
    return numbers


def generator(seed: int, epoch: int, index: int, purpose: Purpose) -> np.random.Generator:
    """A NumPy generator for what needs a permutation or a Beta distribution: once a batch or an epoch."""
    return np.random.Generator(np.random.PCG64(key(seed, epoch, index, purpose)))


def _mix(values: Keys) -> Keys:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
