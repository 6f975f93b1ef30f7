"""What a pickle of torch.save may name, and what stands for it: tensors as descriptions, settings as plain values."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t2t_vit.formats.plain_pickle import Global, Namespace

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
