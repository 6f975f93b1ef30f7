"""Files of torch.save, zip archives and the streams of old versions: read by torch after a look at what they claim.

See `formats/pickle_scan.py` for what is refused, and why.
"""

import argparse
import datetime
import io
import mmap
import pathlib
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from t2t_vit.errors import UserError
from t2t_vit.files import open_regular, through_link
from t2t_vit.formats.pickle_scan import DICTIONARIES, LONGEST_PICKLE, RefusedObjectError, Scan, scan_pickle
from t2t_vit.formats.zip_directory import Stored, read_directory

_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGED = "is not a readable checkpoint: it is truncated, damaged, or not written by torch.save"
_SCALARS = {
    **{"f2": "<e", "f4": "<f", "f8": "<d", "b1": "<?", "i1": "<b", "i2": "<h", "i4": "<i", "i8": "<q"},
    **{"u1": "<B", "u2": "<H", "u4": "<I", "u8": "<Q"},
}
# What torch's reader raises for content that is not as it should be.
_ERRORS = (
    *(UnpicklingError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
    *(OverflowError, AssertionError, MemoryError, struct.error, OSError),
)


class _NumpyType:
    """What stands for NumPy's types of numbers: one of them by name, never a type that a file makes up."""

    def __init__(self, code: str, *_flags: object) -> None:
        if code not in _SCALARS:
            raise ValueError("a NumPy scalar is of a type that is not numeric")
        self.layout = _SCALARS[code]

    def __setstate__(self, _: object) -> None:
        """Byte order and alignment: numbers of torch.save are little-endian."""


def _numpy_scalar(kind: _NumpyType, content: bytes) -> Any:
    return struct.unpack(kind.layout, content)[0]


# Beside what torch admits by itself: settings, as plain values where their classes are another platform's.
_ADMITTED: list[Any] = [
    argparse.Namespace,
    *((_NumpyType, "numpy.dtype"), (_numpy_scalar, "numpy.core.multiarray.scalar")),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    *((OrderedDict, name) for name in DICTIONARIES),
    *((getattr(datetime, kind), f"datetime.{kind}") for kind in ("date", "time", "datetime", "timedelta", "timezone")),
    *(
        (getattr(pathlib, f"Pure{kind.removeprefix('Pure')}"), f"{module}.{kind}")
        for module in ("pathlib", "pathlib._local")
        for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
]


def read_torch_archive(path: str | Path) -> Any:
    """What a file of torch.save holds; the tensors of a zip archive are mapped, writable without effect on the file.

    It takes at most the file's size and some 100 MB. Every checksum is verified.

    Raises:
        UserError: it is damaged, claims more than it has, holds other Python objects than settings, or is no file of
            weights.
    """
    return through_link(Path(path), lambda: _read(path))


def _read(path: str | Path) -> Any:
    try:
        with open_regular(path) as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        is_zip = bytes(data[:4]) == b"PK\3\4"
        source = _checked_zip(data) if is_zip else _checked_stream(data)
        return _load(str(path) if source is None else source, mapped=is_zip and source is None)
    except RefusedObjectError as error:
        raise UserError(
            f"{path}: holds a Python object ({str(error)[:80]}), and loading one could run code, so it is refused; "
            "save the state dict alone, with torch.save(model.state_dict(), path)"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except _ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: {reason if reason.startswith('is ') else f'{_DAMAGED} ({reason[:120]})'}") from error


def _load(source: str | io.BytesIO, *, mapped: bool) -> Any:
    with torch.serialization.safe_globals(_ADMITTED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of storage classes that torch itself has given up
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def _checked_zip(data: memoryview) -> io.BytesIO | None:
    """None where the archive may be read as it is, else the same with a pickle that torch's reader knows."""
    entries = read_directory(data)
    pickled = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise ValueError("the archive has no data.pkl")
    root = pickled[0].removesuffix("data.pkl")
    if any(not name.startswith(root) for name in entries):
        raise ValueError("the archive has two roots")
    if f"{root}constants.pkl" in entries:
        raise ValueError(
            "is a TorchScript program, not weights; save the state dict with torch.save(model.state_dict(), path)"
        )
    order = entries.get(f"{root}byteorder")
    if order is not None and bytes(data[order.start : order.stop][:8]) != b"little":
        raise ValueError("is written on a big-endian machine; save it again on this one")
    for name, entry in entries.items():
        if entry.crc and zlib.crc32(data[entry.start : entry.stop]) != entry.crc:
            raise ValueError(f"is damaged: the checksum of {name.removeprefix(root)[:40]} is not that of its content")
    place = entries[pickled[0]]
    scan = scan_pickle(bytes(data[place.start : place.stop]))
    _check_storages(scan, {name.removeprefix(f"{root}data/"): entry for name, entry in entries.items()})
    return None if scan.rewritten is None else _with_pickle(data, entries, pickled[0], scan.rewritten)


def _check_storages(scan: Scan, places: Mapping[str, Stored]) -> None:
    for key, claimed in scan.storages.items():
        held = places.get(key)
        if held is None or claimed > held.stop - held.start:
            raise ValueError("a tensor claims more bytes than the file has")


def _with_pickle(data: memoryview, entries: Mapping[str, Stored], changed: str, pickle: bytes) -> io.BytesIO:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, entry in entries.items():
            file.writestr(name, pickle if name == changed else bytes(data[entry.start : entry.stop]))
    archive.seek(0)
    return archive


def _checked_stream(data: memoryview) -> io.BytesIO:
    """torch before 1.6: five pickles (mark, version, machine, content, keys), then each storage's length and bytes."""
    scans: list[Scan] = []
    at = 0
    for _ in range(5):
        scans.append(scan_pickle(bytes(data[at : at + LONGEST_PICKLE])))
        if scans[0].value.plain != _MAGIC:
            raise ValueError("it does not begin like a file of torch")
        at += scans[-1].end
    _, _, machine, content, _ = scans
    little = (machine.value.entries or {}).get("little_endian")
    if little is None or little.plain is not True:
        raise ValueError("is written on a big-endian machine; save it again on this one")
    if sum(content.storages.values()) > len(data) - at:
        raise ValueError("it is truncated")
    source = io.BytesIO()
    begin = 0
    for scan in scans:
        source.write(data[begin : begin + scan.end] if scan.rewritten is None else scan.rewritten)
        begin += scan.end
    source.write(data[begin:])
    source.seek(0)
    return source
