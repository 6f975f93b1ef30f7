"""One look at a pickle before torch.load reads it: what it would call, copy and claim. Nothing is made or called.

`torch.load(weights_only=True)` runs no code, but a crafted pickle makes it allocate: `bytearray(n)`, a tensor class
called with a size, a set built again and again from one list, a tensor larger than its storage. This pass follows the
operations with placeholders in place of values and refuses such pickles. Those of other protocols than 2, and the texts
of Python 2, come back as protocol 2, the only one that torch's reader knows.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_OPERATIONS = (
    400_000  # each takes some 150 bytes; a checkpoint of the largest network with its optimizer has 60,000
)
LONGEST_PICKLE = 16 * 2**20
MOST_COPIED = 1_000_000  # entries of containers, and letters, that calls copy
DEEPEST = 100
_TENSOR_CALLS = {
    "torch._utils._rebuild_tensor": None,
    "torch._utils._rebuild_tensor_v2": None,
    "torch._utils._rebuild_tensor_v3": 6,  # the argument that names the type
}
# What may be called. Their arguments are copied at most once.
CALLABLE = frozenset(
    {
        *_TENSOR_CALLS,
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._tensor._rebuild_from_type_v2",
        "torch.Size",
        "torch.device",
        "collections.OrderedDict",
        "collections.Counter",
        "__builtin__.set",
        "builtins.set",
        "__builtin__.complex",
        "builtins.complex",
        "_codecs.encode",
        "argparse.Namespace",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        *(f"{module}.{kind}" for module in ("pathlib", "pathlib._local") for kind in ("PosixPath", "WindowsPath")),
        *(f"pathlib.{kind}" for kind in ("PurePosixPath", "PureWindowsPath")),
        *(f"datetime.{kind}" for kind in ("date", "time", "datetime", "timedelta", "timezone")),
    }
)
# Lightning's dictionaries of hyper-parameters, which are read as plain ones.
DICTIONARIES = frozenset(
    {
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
    }
)
# Storage classes, whose elements have one type, and the bytes of an element of each type.
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
# What may be named, but not called.
_TENSOR_KINDS = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
_NAMES = {"complex32", "complex64", "complex128", "strided", "contiguous_format", "preserve_format", *ITEM_BYTES}
NAMED = frozenset({*STORAGES, *_TENSOR_KINDS, *(f"torch.{name}" for name in _NAMES)})
_MOST_DIMS = 16


class RefusedObjectError(ValueError):
    """A pickle asks for a Python object that is not admitted; its text is the name."""


@dataclass(slots=True)
class Value:
    """What the pass knows of a value.

    plain    a number, a text or None; of a tuple, those of its items
    parts    a tuple's items
    entries  what a dictionary has under plain keys
    size     entries and letters that a copy copies
    name     a global's full name
    """

    kind: str
    plain: Any = None
    parts: tuple["Value", ...] = ()
    entries: dict[Any, "Value"] | None = None
    size: int = 1
    depth: int = 0
    name: str = ""


@dataclass(frozen=True)
class Scan:
    """What a pickle holds, where it ends, the bytes that each storage claims, and itself in protocol 2."""

    value: Value
    end: int
    storages: Mapping[str, int]
    rewritten: bytes | None


def scan_pickle(data: bytes) -> Scan:
    """Look at the pickle at the beginning of `data`.

    Raises:
        RefusedObjectError: it names a Python object that is not admitted.
        ValueError: it is damaged, or would claim more than it may.
    """
    try:
        try:
            machine = _Machine(rewrites=False)
            end = machine.run(data)
        except _ForeignError:
            machine = _Machine(rewrites=True)
            end = machine.run(data)
        (value,) = machine.stack
    except (IndexError, KeyError, TypeError, AttributeError, struct.error, OverflowError, UnicodeError) as error:
        raise ValueError("the pickle is damaged") from error
    rewritten = b"\x80\x02" + b"".join(machine.pieces) + b"." if machine.rewrites else None
    return Scan(value, end, machine.storages, rewritten)


class _ForeignError(Exception):
    """An operation has to be written in another way."""


class _Machine:
    def __init__(self, *, rewrites: bool) -> None:
        self.rewrites = rewrites
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.storages: dict[str, int] = {}
        self.copied = 0
        self.pieces: list[bytes] = []  # each operation in protocol 2
        self.protocol = 2

    def run(self, data: bytes) -> int:
        operations = pickletools.genops(data[:LONGEST_PICKLE])
        begin, step = 0, next(operations)
        for count in range(MOST_OPERATIONS):
            operation, argument, _ = step
            if operation.name == "STOP":
                return begin + 1
            step = next(operations)  # genops raises ValueError where the pickle ends before its STOP
            after = step[2]
            assert after is not None
            do = _OPERATIONS.get(operation.name)
            if do is None:
                raise ValueError(f"operation {operation.name} is not one that torch.save writes (number {count})")
            piece = do(self, argument)
            if self.rewrites and piece != b"":
                self.pieces.append(data[begin:after] if piece is None else piece)
            elif piece is not None and not self.rewrites:
                raise _ForeignError
            begin = after
        raise ValueError(f"the pickle has more than {MOST_OPERATIONS:,} operations")

    def push(self, value: Value) -> None:
        if value.depth > DEEPEST:
            raise ValueError("its values are nested too deeply")
        self.stack.append(value)

    def charge(self, size: int) -> None:
        self.copied += size
        if self.copied > MOST_COPIED:
            raise ValueError("its values are copied again and again")

    def since_mark(self) -> list[Value]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def tuple_of(self, items: list[Value]) -> None:
        depth = 1 + max((item.depth for item in items), default=0)
        plain = tuple(item.plain for item in items)
        self.push(Value("tuple", plain, tuple(items), size=len(items), depth=depth))

    def extend(self, items: list[Value], target: Value) -> None:
        if target.kind != "list":
            raise ValueError("items are appended to something that is not a list")
        target.size += len(items)
        target.depth = max(target.depth, *(item.depth + 1 for item in items), 0)

    def set_items(self, items: list[Value], target: Value) -> None:
        if target.kind != "dict" or len(items) % 2:
            raise ValueError("items are set on something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if key.kind != "plain":
                raise ValueError("a dictionary has a key that is neither text nor a number")
            target.entries = target.entries or {}
            target.entries[key.plain] = value
            target.depth = max(target.depth, value.depth + 1)
        target.size += len(items)

    def find(self, name: str) -> None:
        if not name.isprintable():
            raise ValueError("a name is not text")
        if name not in CALLABLE | DICTIONARIES | NAMED:
            raise RefusedObjectError(name)
        self.push(Value("global", name=name))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if arguments.kind != "tuple" or function.name not in CALLABLE | DICTIONARIES:
            raise ValueError(f"{function.name or 'a value'} is called")
        result = self.called(function.name, arguments.parts)
        result.depth = max(result.depth, arguments.depth)
        self.push(result)

    def called(self, name: str, arguments: tuple[Value, ...]) -> Value:
        if name in _TENSOR_CALLS:
            _check_tensor(name, arguments)
            return Value("tensor")
        if name == "torch._tensor._rebuild_from_type_v2":
            function, kind, inner, *_ = arguments
            if function.name not in CALLABLE or kind.name not in _TENSOR_KINDS:
                raise ValueError("a tensor is of an unknown kind")
            self.charge(1)
            return self.called(function.name, inner.parts)
        copied = sum(argument.size for argument in arguments)
        self.charge(copied)
        if name in ("collections.OrderedDict", "collections.Counter", *DICTIONARIES):
            entries = dict(arguments[0].entries or {}) if arguments else None
            return Value("dict", entries=entries, size=copied)
        return Value(name, size=copied)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        self.charge(state.size)
        if target.kind == "numpy.dtype":
            return  # what stands for one has no state
        if target.kind not in ("argparse.Namespace", "dict") or state.kind != "dict":
            raise ValueError("a state is given to something that has none")

    def persistent(self) -> None:
        identity = self.stack.pop()
        kind, storage_class, key, _, count, *view = identity.parts
        if kind.plain != "storage" or storage_class.name not in STORAGES or type(key.plain) is not str:
            raise ValueError("a storage is of an unknown class")
        if type(count.plain) is not int or not 0 <= count.plain < 2**60:
            raise ValueError("a storage has no length")
        item = ITEM_BYTES[STORAGES[storage_class.name]]
        room = count.plain * item
        if self.storages.setdefault(key.plain, room) != room:
            raise ValueError("a storage has two lengths")
        if view and view[0].parts:
            _, start, length = view[0].plain
            if not (type(start) is int and type(length) is int and start >= 0 and 0 <= length <= count.plain - start):
                raise ValueError("a storage's view is damaged")
            room = length * item
        self.push(Value("storage", plain=room, name=STORAGES[storage_class.name]))


def _check_tensor(name: str, arguments: tuple[Value, ...]) -> None:
    """Hold a tensor's claims against its storage: torch would let the storage grow."""
    storage, offset, shape, stride, *_ = arguments
    place = _TENSOR_CALLS[name]
    dtype = storage.name if place is None else arguments[place].name.removeprefix("torch.")
    if storage.kind != "storage" or dtype not in ITEM_BYTES:
        raise ValueError(f"a tensor is of type {dtype}, or in no storage")
    sides, steps = _numbers(shape), _numbers(stride)
    if len(sides) != len(steps) or len(sides) > _MOST_DIMS:
        raise ValueError("the strides of a tensor do not match its dimensions")
    numbers = (offset.plain, *sides, *steps)
    if any(type(number) is not int or not 0 <= number < 2**62 for number in numbers):
        raise ValueError("a tensor's shape is damaged")
    last = offset.plain + sum((side - 1) * step for side, step in zip(sides, steps, strict=True)) + 1
    if 0 not in sides and last * ITEM_BYTES[dtype] > storage.plain:
        raise ValueError("a tensor is larger than its storage")


def _numbers(value: Value) -> tuple[Any, ...]:
    if value.kind != "tuple":
        raise ValueError("a tensor's shape is damaged")
    return tuple(value.plain)


# What stands for an operation in protocol 2; None: the operation itself.
Operation = Callable[[_Machine, Any], bytes | None]


def _plain(machine: _Machine, value: Any) -> None:
    machine.push(Value("plain", value, size=1 + (len(value) if isinstance(value, str | bytes) else 0)))


def _text(machine: _Machine, value: str) -> bytes:
    _plain(machine, value)
    return text_piece(value)


def text_piece(text: str) -> bytes:
    """A text as protocol 2 has it."""
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _bytes(machine: _Machine, value: bytes) -> bytes:
    machine.charge(len(value))
    machine.push(Value("_codecs.encode", size=1 + len(value)))
    return b"c_codecs\nencode\n" + text_piece(value.decode("latin-1")) + text_piece("latin1") + b"\x86R"


def _mark(machine: _Machine, _: Any) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _empty(kind: str) -> Operation:
    def push(machine: _Machine, _: Any) -> None:
        machine.push(Value(kind, () if kind == "tuple" else None))

    return push


def _some(count: int) -> Operation:
    def make(machine: _Machine, _: Any) -> None:
        machine.tuple_of([machine.stack.pop() for _ in range(count)][::-1])

    return make


def _global(machine: _Machine, argument: str) -> None:
    machine.find(argument.replace(" ", ".", 1))


def _stack_global(machine: _Machine, _: Any) -> bytes:
    name, module = machine.stack.pop().plain, machine.stack.pop().plain
    # Texts leave nothing in the memo of protocol 2, so these two are the last pieces.
    if machine.pieces[-2:] != [text_piece(module), text_piece(name)]:
        raise ValueError("a name is not text")
    del machine.pieces[-2:]
    machine.find(f"{module}.{name}")
    return f"c{module}\n{name}\n".encode("ascii")


def _protocol(machine: _Machine, version: int) -> bytes | None:
    if not 2 <= version <= 5 or machine.pieces:
        raise ValueError(f"it is of protocol {version}")
    machine.protocol = version
    return b"" if version > 2 or machine.rewrites else None


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> bytes:
    index = len(machine.memo)
    _put(machine, index)
    return b"" if _is_text(machine.stack[-1]) else b"r" + struct.pack("<I", index)


def _get(machine: _Machine, index: int) -> bytes | None:
    value = machine.memo[index]
    machine.push(value)
    if machine.protocol < 4 or not _is_text(value):
        return None
    machine.charge(value.size)
    return text_piece(value.plain)


def _is_text(value: Value) -> bool:
    return value.kind == "plain" and type(value.plain) is str


def _constant(value: object) -> Operation:
    return lambda machine, _: _plain(machine, value)


_OPERATIONS: dict[str, Operation] = {
    "PROTO": _protocol,
    "FRAME": lambda _machine, _: b"",
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _plain),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"), _text),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES"), _bytes),
    "EMPTY_TUPLE": _empty("tuple"),
    "EMPTY_LIST": _empty("list"),
    "EMPTY_DICT": _empty("dict"),
    "EMPTY_SET": _empty("set"),
    "MARK": _mark,
    "TUPLE": lambda machine, _: machine.tuple_of(machine.since_mark()),
    **{f"TUPLE{count}": _some(count) for count in (1, 2, 3)},
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()], machine.stack[-1]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark(), machine.stack[-1]),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()], machine.stack[-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark(), machine.stack[-1]),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": _memoize,
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
}
