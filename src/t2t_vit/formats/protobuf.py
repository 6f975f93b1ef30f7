"""The wire format of Protocol Buffers: numbered fields, each a number or a run of bytes.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_LARGEST_KEY = 2**32 - 1
MOST_FIELDS = 200_000
MOST_LETTERS = 16 * 2**20  # bytes of all texts together


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


class Reader:
    """The messages of one file of unknown origin: its fields and the bytes of its texts are counted.

    A field takes two bytes in a file and a hundred in memory, and a letter may take four, so both have a limit that no
    network comes near.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._fields, self._letters = MOST_FIELDS, MOST_LETTERS

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message in `data[start:stop]`; nothing is copied.

        Raises:
            ValueError: a field reaches past `stop`, is of a kind that does not exist, or is one too many.
        """
        for field in _read_fields(self.data, start, stop):
            self._fields -= 1
            if self._fields < 0:
                raise ValueError(f"there are more than {MOST_FIELDS:,} fields")
            yield field

    def text(self, field: Field, longest: int) -> str:
        """The text that the field holds.

        Raises:
            ValueError: it is no text, has more than `longest` bytes, or all texts together are too long.
        """
        length = field.stop - field.start
        self._letters -= length
        if field.wire != BYTES or length > longest or self._letters < 0:
            raise ValueError(f"the field at byte {field.start} is not text")
        return bytes(self.data[field.start : field.stop]).decode("utf-8")

    def numbers(self, field: Field, most: int) -> list[int]:
        """The number of the field, or up to `most` packed ones.

        Raises:
            ValueError: there are more.
        """
        if field.wire == VARINT:
            return [field.value]
        found, at = list[int](), field.start
        while at < field.stop:
            value, at = read_varint(self.data, at, field.stop)
            found.append(value)
            if len(found) > most:
                raise ValueError(f"the field at byte {field.start} has more than {most} numbers")
        return found


def _read_fields(data: memoryview, start: int, stop: int) -> Iterator[Field]:
    at = start
    while at < stop:
        key, at = read_varint(data, at, stop)
        number, wire, value, begin = key >> 3, key & 7, 0, at
        if key > _LARGEST_KEY:  # other readers cut it to 32 bits, and see another field
            raise ValueError(f"there is no field of number {number} (byte {begin})")
        if wire == VARINT:
            value, at = read_varint(data, at, stop)
        elif wire == BYTES:
            length, begin = read_varint(data, at, stop)
            at = begin + length
        elif wire in (FIXED32, FIXED64):
            at += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"there is no field type {wire} (byte {begin})")
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
