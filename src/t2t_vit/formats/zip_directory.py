"""The directory of a zip archive whose entries are stored as they are."""

import struct
from dataclasses import dataclass

_END, _END64, _LOCATOR64, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_LONGEST_COMMENT = 2**16
_MOST_ENTRIES = 50_000
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF


@dataclass(frozen=True, slots=True)
class Stored:
    """One entry's bytes in the archive, and their CRC-32, 0 where the writer left it out."""

    start: int
    stop: int
    crc: int


def read_directory(data: memoryview) -> dict[str, Stored]:
    """The entries by name.

    Raises:
        ValueError: the archive is cut short or damaged, an entry is compressed, or all claim more bytes than there are.
    """
    count, size, at = _end(data)
    if count > _MOST_ENTRIES or at + size > len(data):
        raise ValueError("the directory of the archive is damaged")
    entries: dict[str, Stored] = {}
    total = 0
    for _ in range(count):
        name, entry, at = _entry(data, at)
        total += entry.stop - entry.start
        if name in entries or total > len(data):
            raise ValueError("the entries of the archive overlap")
        entries[name] = entry
    return entries


def _end(data: memoryview) -> tuple[int, int, int]:
    """Entries, bytes and place of the directory."""
    tail = bytes(data[max(0, len(data) - _LONGEST_COMMENT - 22) :])
    found = tail.rfind(_END)
    if found < 0 or len(tail) - found < 22:
        raise ValueError("the archive has no directory: it is truncated")
    count, size, at = struct.unpack_from("<HII", tail, found + 10)
    if count != _FULL16 and _FULL32 not in (size, at):
        return count, size, at
    place = len(data) - len(tail) + found - 20
    if place < 0 or data[place : place + 4] != _LOCATOR64:
        return count, size, at
    (record,) = struct.unpack_from("<Q", data, place + 8)
    if record + 56 > len(data) or data[record : record + 4] != _END64:
        raise ValueError("the directory of the archive is damaged")
    count, size, at = struct.unpack_from("<QQQ", data, record + 32)
    return count, size, at


def _entry(data: memoryview, at: int) -> tuple[str, Stored, int]:
    """Name and place of the entry whose record is at `at`, and where the next record is."""
    if at + 46 > len(data) or data[at : at + 4] != _ENTRY:
        raise ValueError("the directory of the archive is damaged")
    flags, method = struct.unpack_from("<HH", data, at + 8)
    crc, packed, size, name_length, extra, comment = struct.unpack_from("<IIIHHH", data, at + 16)
    (local,) = struct.unpack_from("<I", data, at + 42)
    name_at = at + 46
    end = name_at + name_length + extra + comment
    if end > len(data):
        raise ValueError("the directory of the archive is damaged")
    name = bytes(data[name_at : name_at + name_length]).decode("utf-8", "replace")
    extras = data[name_at + name_length : name_at + name_length + extra]
    size, packed, local = _wide(extras, size, packed, local)
    if method != 0 or packed != size or flags & 1:
        raise ValueError("the entries of the archive are compressed, which torch.save never does")
    start = _content(data, local)
    if start + size > len(data):
        raise ValueError("an entry of the archive reaches past the end")
    return name, Stored(start, start + size, crc), end


def _wide(extras: memoryview, *numbers: int) -> list[int]:
    """The numbers that did not fit into 32 bits stand in the extra field 1, in this order."""
    if _FULL32 not in numbers:
        return list(numbers)
    at = 0
    while at + 4 <= len(extras):
        kind, length = struct.unpack_from("<HH", extras, at)
        if kind == 1:
            fits = at + 4 + length <= len(extras)
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extras, at + 4) if fits else ())
            return [next(wide, 2**63) if number == _FULL32 else number for number in numbers]
        at += 4 + length
    return list(numbers)


def _content(data: memoryview, local: int) -> int:
    """Where the bytes of the entry begin whose local header is at `local`."""
    if local + 30 > len(data) or data[local : local + 4] != _LOCAL:
        raise ValueError("an entry of the archive is damaged")
    name_length, extra = struct.unpack_from("<HH", data, local + 26)
    return local + 30 + name_length + extra
