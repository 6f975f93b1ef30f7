"""The wire format of Protocol Buffers: numbered fields, each a number or a run of bytes.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: `value` is its number (VARINT), else it lies in `start:stop` of the file."""

    number: int
    wire: int
    value: int
    start: int
    stop: int


def read_varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """The base-128 number at `at`, and where the next byte after it is.

    Raises:
        ValueError: it does not end before `stop`.
    """
    value = 0
    for count, offset in enumerate(range(at, min(at + _LONGEST_VARINT, stop))):
        value |= (data[offset] & 0x7F) << (7 * count)
        if data[offset] < 0x80:
            return value, offset + 1
    raise ValueError(f"a number at byte {at} has no end")


def read_fields(data: memoryview, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message in `data[start:stop]`; nothing is copied.

    Raises:
        ValueError: a field reaches past `stop`, or is of a kind that does not exist.
    """
    at = start
    while at < stop:
        key, at = read_varint(data, at, stop)
        number, wire, value, begin = key >> 3, key & 7, 0, at
        if wire == VARINT:
            value, at = read_varint(data, at, stop)
        elif wire == BYTES:
            length, begin = read_varint(data, at, stop)
            at = begin + length
        elif wire in (FIXED32, FIXED64):
            at += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"there is no field of kind {wire} (byte {begin})")
        if at > stop or number == 0:
            raise ValueError(f"the field at byte {begin} reaches past the end")
        yield Field(number, wire, value, begin, at)


def varint(value: int) -> bytes:
    """A number from 0 to 2^64 - 1 in base 128."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))


def number_field(number: int, value: int) -> bytes:
    """A field that holds a number."""
    return varint(number << 3 | VARINT) + varint(value)


def bytes_head(number: int, length: int) -> bytes:
    """What stands before the bytes of a field."""
    return varint(number << 3 | BYTES) + varint(length)


def bytes_field(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return bytes_head(number, len(content)) + content
