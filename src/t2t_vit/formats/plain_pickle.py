"""Pickles of protocol 2 as plain values: nothing is imported, nothing is called but the functions that are handed in.

Python's own unpickler, even when told which names to admit, can be made to claim gigabytes (`bytearray(10 ** 10)`, a
memo of four billion places) or to hang (a key of tuples in tuples). This one knows the operations that torch.save and
plain data need, counts them, and takes only texts, numbers and None for keys.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Each costs at most some 100 bytes of memory. A checkpoint of the largest network with its optimizer needs 60,000.
MOST_OPERATIONS = 400_000
_LONGEST_LONG = 16
_MARK = object()


@dataclass(frozen=True, slots=True)
class Global:
    """A Python object by its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class RefusedObjectError(ValueError):
    """A pickle asks for a Python object that is not admitted; its text is the name."""


Calls = Mapping[str, Callable[..., Any]]


def load_pickle(
    data: memoryview, at: int, calls: Calls, persistent: Callable[[Any], Any], inert: Callable[[str], bool]
) -> tuple[Any, int]:
    """The value pickled at `at`, and where its pickle ends.

    Args:
        calls: what stands for the functions and classes that may be called, by full name.
        persistent: turns a persistent id into what stands for it.
        inert: whether a name may be mentioned, though not called.

    Raises:
        RefusedObjectError: another name is mentioned.
        ValueError: the pickle is damaged, cut short, or of another protocol.
    """
    machine = _Machine(data, at, calls, persistent, inert)
    try:
        return machine.run(), machine.at
    except (IndexError, KeyError, TypeError, AttributeError, struct.error, OverflowError) as error:
        raise ValueError(f"the pickle at byte {at} is damaged") from error


class _Machine:
    """A stack, marks on it, and a memo."""

    def __init__(
        self, data: memoryview, at: int, calls: Calls, persistent: Callable[[Any], Any], inert: Callable[[str], bool]
    ) -> None:
        self.data, self.at, self.calls, self.persistent, self.inert = data, at, calls, persistent, inert
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        operations = _OPERATIONS
        for _ in range(MOST_OPERATIONS):
            code = self.data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                (value,) = self.stack
                return value
            if code not in operations:
                raise ValueError(f"there is no operation {code:#x} in pickles of protocol 2 (byte {self.at - 1})")
            operations[code](self)
        raise ValueError(f"the pickle has more than {MOST_OPERATIONS:,} operations")

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError(f"a text at byte {self.at} reaches past the end")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError("a mark is missing")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark stands where a value belongs")
        return value

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("items are set on what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (key is None or type(key) in (str, int, float, bool, bytes)):
                raise ValueError("a dictionary has a key that is neither text nor number")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("items are appended to what is no list")
        target.extend(items)

    def find(self) -> None:
        found = Global(self.line(), self.line())
        if not str(found).isprintable():
            raise ValueError("a name is no text")
        if str(found) not in self.calls and not self.inert(str(found)):
            raise RefusedObjectError(str(found))
        self.push(found)

    def line(self) -> str:
        window = bytes(self.data[self.at : self.at + 256])
        end = window.index(b"\n")
        self.at += end + 1
        return window[:end].decode("ascii")

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(arguments) is not tuple or type(function) is not Global or str(function) not in self.calls:
            raise ValueError(f"{function if type(function) is Global else 'a value'} is called")
        self.push(self.calls[str(function)](*arguments))

    def build(self) -> None:
        """State of an object: attributes of what stands for one as a dictionary; what else has state needs none."""
        state, target = self.pop(), self.stack[-1]
        if type(target) is Namespace and type(state) is dict:
            target.attributes.update(state)

    def long(self) -> None:
        count = self.number("<B")
        if count > _LONGEST_LONG:
            raise ValueError(f"a number has {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))


@dataclass(slots=True)
class Namespace:
    """What stands for an object whose attributes are plain values."""

    attributes: dict[str, Any]


_OPERATIONS: dict[int, Callable[[_Machine], Any]] = {
    ord("("): lambda machine: machine.push(_MARK),
    ord("N"): lambda machine: machine.push(None),
    0x88: lambda machine: machine.push(True),
    0x89: lambda machine: machine.push(False),
    ord("}"): lambda machine: machine.push({}),
    ord("]"): lambda machine: machine.push([]),
    ord(")"): lambda machine: machine.push(()),
    ord("K"): lambda machine: machine.push(machine.number("<B")),
    ord("M"): lambda machine: machine.push(machine.number("<H")),
    ord("J"): lambda machine: machine.push(machine.number("<i")),
    ord("G"): lambda machine: machine.push(machine.number(">d")),
    0x8A: _Machine.long,
    ord("X"): lambda machine: machine.push(machine.take(machine.number("<I")).decode("utf-8", "surrogatepass")),
    ord("T"): lambda machine: machine.push(machine.take(machine.number("<I")).decode("latin-1")),
    ord("U"): lambda machine: machine.push(machine.take(machine.number("<B")).decode("latin-1")),
    ord("B"): lambda machine: machine.push(machine.take(machine.number("<I"))),
    ord("C"): lambda machine: machine.push(machine.take(machine.number("<B"))),
    ord("t"): lambda machine: machine.push(tuple(machine.since_mark())),
    0x85: lambda machine: machine.tuple_of(1),
    0x86: lambda machine: machine.tuple_of(2),
    0x87: lambda machine: machine.tuple_of(3),
    ord("s"): lambda machine: machine.set_items([machine.pop(), machine.pop()][::-1]),
    ord("u"): lambda machine: machine.set_items(machine.since_mark()),
    ord("a"): lambda machine: machine.extend([machine.pop()]),
    ord("e"): lambda machine: machine.extend(machine.since_mark()),
    ord("c"): _Machine.find,
    ord("R"): _Machine.call,
    0x81: _Machine.call,  # NEWOBJ: a class and its arguments
    ord("b"): _Machine.build,
    ord("Q"): lambda machine: machine.push(machine.persistent(machine.pop())),
    ord("q"): lambda machine: machine.memo.__setitem__(machine.number("<B"), machine.stack[-1]),
    ord("r"): lambda machine: machine.memo.__setitem__(machine.number("<I"), machine.stack[-1]),
    ord("h"): lambda machine: machine.push(machine.memo[machine.number("<B")]),
    ord("j"): lambda machine: machine.push(machine.memo[machine.number("<I")]),
    0x80: lambda machine: machine.number("<B"),
}
