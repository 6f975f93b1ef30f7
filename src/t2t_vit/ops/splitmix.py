"""Random bits as a function of a key and a place: SplitMix64 (Steele, Lea and Flood 2014, OOPSLA) on tensors.

torch has no unsigned 64-bit arithmetic; int64 wraps around in the same way, and shifts are masked to be logical ones.
The bits are the same on every device and in every split of a batch.
"""

import torch
from torch import Tensor

_INT64 = 2**63


def words(keys: Tensor, start: int, count: int) -> Tensor:
    """Outputs number `start` to `start + count - 1` of each key, counted from 1: (N,) int64 -> (N, count) int64."""
    # key + n GOLDEN, written so that torch.compile sees no product of a position and a large number: it would take
    # that for an address, and overflow.
    first = keys * _INVERSE + start  # (N,)
    return mix((first.unsqueeze(1) + torch.arange(count, device=keys.device)).mul_(GOLDEN))


def sixteenths(words: Tensor) -> Tensor:
    """Each word as four numbers of -2^15 to 2^15 - 1, the lowest bits first: (N, count) -> (N, 4 count)."""
    if torch.compiler.is_compiling():
        # torch.compile (2.15) reads such a view wrongly; shifts cost it nothing, and here four times the time.
        ends = torch.arange(48, -1, -16, device=words.device)
        return ((words.unsqueeze(2) << ends) >> 48).flatten(1)
    return words.view(torch.int16)


def mix(values: Tensor) -> Tensor:
    """The finaliser: neighbouring int64 values become unrelated ones; `values` is not changed."""
    mixed = (values ^ _shifted(values, 30)).mul_(signed(0xBF58476D1CE4E5B9))
    mixed = mixed.bitwise_xor_(_shifted(mixed, 27)).mul_(signed(0x94D049BB133111EB))
    return mixed.bitwise_xor_(_shifted(mixed, 31))


def signed(constant: int) -> int:
    """The int64 of the same 64 bits."""
    return (constant + _INT64) % (2 * _INT64) - _INT64


def _shifted(values: Tensor, bits: int) -> Tensor:
    return (values >> bits).bitwise_and_(2 ** (64 - bits) - 1)


GOLDEN = signed(0x9E3779B97F4A7C15)
_INVERSE = signed(pow(GOLDEN, -1, 2**64))
