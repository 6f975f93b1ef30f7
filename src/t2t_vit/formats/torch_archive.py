"""Files of torch.save, zip archives and the streams of old versions, without torch and without running anything."""

import mmap
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.formats.plain_pickle import RefusedObjectError, load_pickle
from t2t_vit.formats.torch_globals import CALLS, ITEM_BYTES, Storage, StoredTensor, may_be_named, storage_of
from t2t_vit.formats.zip_directory import Stored, read_directory

# Texts need up to four times their bytes.
_LONGEST_PICKLE = 8 * 2**20
_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGED = "is not a checkpoint that can be read: it is cut short, damaged, or not written by torch.save"


@dataclass(frozen=True)
class TorchFile:
    """Plain values, and tensors as `StoredTensor`; `buffer` is the file, writable without effect on it."""

    path: Path
    content: Any
    buffer: mmap.mmap = field(repr=False)
    places: Mapping[str, Stored] = field(repr=False)

    def place(self, tensor: StoredTensor) -> int:
        """Where the tensor's storage begins in the file, once its claims are found to be true.

        Raises:
            UserError: its storage is missing, too short or damaged, or it has more elements than its storage.
        """
        storage, size = tensor.storage, ITEM_BYTES[tensor.dtype]
        spread = sum((side - 1) * step for side, step in zip(tensor.shape, tensor.stride, strict=True))
        last = tensor.offset + spread + 1 if tensor.nbytes else 0
        room = storage.count * ITEM_BYTES[storage.dtype]
        held = self.places.get(storage.key)
        start = storage.start * ITEM_BYTES[storage.dtype]
        if held is None or start + room > held.stop - held.start or last * size > room or tensor.nbytes > room:
            raise UserError(f"{self.path}: {_DAMAGED}")
        return held.start + start

    def check(self, keys: set[str]) -> None:
        """Hold the content of these storages against its checksum.

        Raises:
            UserError: a bit has changed.
        """
        with memoryview(self.buffer) as data:
            for key in keys:
                held = self.places.get(key)
                if held is not None and held.crc and zlib.crc32(data[held.start : held.stop]) != held.crc:
                    raise UserError(f"{self.path}: is damaged: the checksum of a tensor is not that of its content")


def read_torch_archive(path: str | Path) -> TorchFile:
    """Open a file of torch.save.

    Raises:
        UserError: it is damaged, holds other Python objects than settings, or is no file of weights.
    """
    try:
        with Path(path).open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        data = memoryview(buffer)
        content, places = _read_zip(data) if bytes(data[:4]) == b"PK\3\4" else _read_stream(data)
    except RefusedObjectError as error:
        raise UserError(
            f"{path}: holds a Python object ({str(error)[:80]}), and loading one could run code, so it is refused; "
            "save the state dict alone, with torch.save(model.state_dict(), path)"
        ) from error
    except (OSError, ValueError) as error:
        told = str(error)
        raise UserError(f"{path}: {told if told.startswith('is ') else f'{_DAMAGED} ({told[:120]})'}") from error
    return TorchFile(Path(path), content, buffer, places)


def _read_zip(data: memoryview) -> tuple[Any, dict[str, Stored]]:
    entries = read_directory(data)
    pickled = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise ValueError("the archive has no data.pkl")
    root = pickled[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise ValueError(
            "is a TorchScript program, not weights; save the state dict with torch.save(model.state_dict(), path)"
        )
    order = entries.get(f"{root}byteorder")
    if order is not None and bytes(data[order.start : order.stop][:8]) != b"little":
        raise ValueError("is written on a big-endian machine; save it again on this one")
    pickle = entries[pickled[0]]
    if pickle.crc and zlib.crc32(data[pickle.start : pickle.stop]) != pickle.crc:
        raise ValueError("the checksum of its data.pkl is not that of its content")
    content, _ = _load(data[: pickle.stop], pickle.start)
    prefix = f"{root}data/"
    places = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
    return content, places


def _read_stream(data: memoryview) -> tuple[Any, dict[str, Stored]]:
    """torch before 1.6: five pickles (mark, version, machine, content, keys), then each storage's length and bytes."""
    magic, at = _load(data, 0)
    _, at = _load(data, at)
    machine, at = _load(data, at)
    if magic != _MAGIC or type(machine) is not dict:
        raise ValueError("it does not begin as torch's do")
    if machine.get("little_endian") is not True:
        raise ValueError("is written on a big-endian machine; save it again on this one")
    sizes: dict[str, int] = {}
    content, at = _load(data, at, sizes)
    keys, at = _load(data, at)
    places: dict[str, Stored] = {}
    for key in keys if type(keys) is list else []:
        if not isinstance(key, str) or key not in sizes or key in places:
            raise ValueError("the list of its tensors is damaged")
        count = int.from_bytes(data[at : at + 8], "little")
        start = at + 8
        at = start + count * sizes[key]
        if at > len(data):
            raise ValueError("it is cut short")
        places[key] = Stored(start, at, 0)
    return content, places


def _load(data: memoryview, at: int, sizes: dict[str, int] | None = None) -> tuple[Any, int]:
    """The pickle at `at`; `sizes` is told the bytes an element of each storage has."""

    def persistent(identity: Any) -> Storage:
        storage = storage_of(identity)
        if sizes is not None:
            sizes.setdefault(storage.key, ITEM_BYTES[storage.dtype])
        return storage

    return load_pickle(data[: at + _LONGEST_PICKLE], at, CALLS, persistent, may_be_named)
