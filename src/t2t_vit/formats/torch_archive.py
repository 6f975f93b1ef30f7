"""Files of torch.save, zip archives and the streams of old versions, without torch and without running anything.

What a pickle of torch.save may name, and what stands for it: tensors as descriptions, settings as plain values.
"""

import math
import mmap
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.formats.plain_pickle import Global, Namespace, RefusedObjectError, load_pickle
from t2t_vit.formats.zip_directory import Stored, read_directory

# Storage classes, whose elements have one type, and the names of torch's types.
STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.storage.UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
}
ITEM_BYTES = {
    **{"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1},
    **{"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1},
}
_NAMED_ONLY = {"complex32", "complex64", "complex128", "strided", "contiguous_format", "preserve_format"}
_SCALARS = {
    **{"f2": "<e", "f4": "<f", "f8": "<d", "b1": "<?", "i1": "<b", "i2": "<h", "i4": "<i", "i8": "<q"},
    **{"u1": "<B", "u2": "<H", "u4": "<I", "u8": "<Q"},
}
_MOST_DIMS = 16

# Texts need up to four times their bytes.
_LONGEST_PICKLE = 8 * 2**20
_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGED = "is not a checkpoint that can be read: it is cut short, damaged, or not written by torch.save"


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the file; `start` counts elements of a view's base."""

    key: str
    dtype: str
    count: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that still lies in the file."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def storage_of(identity: Any) -> Storage:
    """("storage", class, key, device, elements[, view]) as torch.save writes it."""
    kind, storage_class, key, _, count, *view = identity
    if kind != "storage" or type(storage_class) is not Global or str(storage_class) not in STORAGES:
        raise ValueError("a storage is of no class that is known")
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise ValueError("a storage has no key or no length")
    start = 0
    if view and view[0] is not None:
        _, start, count = view[0]
        if type(start) is not int or type(count) is not int or min(start, count) < 0:
            raise ValueError("a storage's view is damaged")
    return Storage(key, STORAGES[str(storage_class)], count, start)


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_rest: Any) -> Any:
    return _checked(storage, storage.dtype, offset, shape, stride)


def _typed_tensor(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    _grad: Any,
    _hooks: Any,
    dtype: Global,
    *_rest: Any,
) -> Any:
    return _checked(storage, dtype.name, offset, shape, stride)


def _checked(storage: Any, dtype: str, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    numbers = (offset, *shape, *stride)
    if type(storage) is not Storage or dtype not in ITEM_BYTES:
        raise ValueError(f"a tensor is of type {dtype}, or in no storage")
    if len(shape) != len(stride) or len(shape) > _MOST_DIMS:
        raise ValueError("a tensor has as many strides as no dimensions")
    if any(type(number) is not int or not 0 <= number < 2**62 for number in numbers):
        raise ValueError("a tensor's shape is damaged")
    return StoredTensor(storage, dtype, offset, tuple(shape), tuple(stride))


def _rebuilt(function: Global, _kind: Global, arguments: tuple[Any, ...], _state: Any) -> Any:
    return CALLS[str(function)](*arguments)


def _scalar(kind: Any, content: bytes = b"") -> Any:
    if type(kind) is not str or kind not in _SCALARS or type(content) is not bytes:
        raise ValueError("a NumPy scalar is damaged")
    return struct.unpack(_SCALARS[kind], content)[0]


def _dtype(code: str, *_flags: Any) -> str:
    if type(code) is not str or code not in _SCALARS:
        raise ValueError("a NumPy scalar is of a type that is no number")
    return code


def _encode(text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding != "latin1" or len(text) > 16:  # only numbers are written so
        raise ValueError("bytes are damaged")
    return text.encode("latin-1")


def _ordered(items: Any = ()) -> dict[Any, Any]:
    if len(items):
        raise ValueError("an ordered dictionary is made of pairs")
    return {}


def _first(value: Any, *_rest: Any) -> Any:
    return value


def _device(kind: Any, *_index: Any) -> Any:
    return kind


def _namespace(*_arguments: Any) -> Namespace:
    return Namespace({})


def _list(items: Any = ()) -> list[Any]:
    if type(items) not in (list, tuple):
        raise ValueError("a set is made of no list")
    return list(items)


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _rebuilt,
    "torch.Size": lambda sizes=(): tuple(_list(sizes)),
    "torch.device": _device,
    "collections.OrderedDict": _ordered,
    "__builtin__.set": _list,
    "builtins.set": _list,
    "argparse.Namespace": _namespace,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encode,
}


def may_be_named(name: str) -> bool:
    """Names that stand for themselves: types, storage classes, the classes of tensors."""
    plain = name.removeprefix("torch.")
    return (
        name in STORAGES
        or name in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
        or (name.startswith("torch.") and (plain in ITEM_BYTES or plain in _NAMED_ONLY))
    )


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
