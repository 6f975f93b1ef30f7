"""What a configuration key may hold: its allowed values, told in words, and the way from text to a value.

A word of the command line and a scalar of a YAML file are the same text and are read by the same rules, so `5e-4`,
`yes` and `[0.9, 0.95]` mean the same in both.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, TypeVar, cast, get_args

from t2t_vit.config_names import nearest

Value = bool | int | float | str | tuple[float, ...] | tuple[int, int]
ImageSize = int | tuple[int, int]
T = TypeVar("T")

WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WORDS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
LONGEST = 100  # characters of a refused value that are shown
KINDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; a bound that is `open` is itself not allowed; `also` lists single exceptions."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: tuple[int, ...] = ()

    def allows(self, value: float) -> bool:
        above = value > self.low or (value == self.low and not self.open_low)
        below = value < self.high or (value == self.high and not self.open_high)
        return (above and below) or value in self.also

    def words(self, kind: str) -> str:
        also = "".join(f"{value}, or " for value in self.also)
        low = f"{'above' if self.open_low else 'of at least'} {self.low}"
        high = f" and {'below' if self.open_high else 'at most'} {self.high}" if self.high < math.inf else ""
        return f"{also}{kind} {low}{high}"


@dataclass(frozen=True)
class OneOf:
    """One of a few names or numbers."""

    values: tuple[Any, ...]

    def allows(self, value: object) -> bool:
        return value in self.values

    def words(self, _kind: str) -> str:
        return f"one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Written:
    """Text of a certain form, recognised by `pattern` as a whole and described in `form`."""

    pattern: str
    form: str

    def allows(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value, re.ASCII) is not None

    def words(self, _kind: str) -> str:
        return self.form


@dataclass(frozen=True)
class Location:
    """A file or a folder, or nothing; `~` stands for the home folder."""

    def allows(self, value: str) -> bool:
        return "\0" not in value

    def words(self, _kind: str) -> str:
        return "a path"


Allowed = Range | OneOf | Written | Location


def key(default: T, meaning: str, allowed: Allowed | None = None) -> T:
    """A dataclass field that is a configuration key: its default, its meaning for `--help`, its allowed values."""
    return field(default=default, metadata={"meaning": meaning, "allowed": allowed})


def default_of(entry: "Field[Any]") -> Value:
    """The default of a key."""
    if entry.default is MISSING:
        raise TypeError(f"{entry.name} is no configuration key")
    return cast(Value, entry.default)


def allowed_words(entry: "Field[Any]") -> str:
    """What the key may hold, in words: `a whole number of at least 1`."""
    allowed = cast(Allowed | None, entry.metadata["allowed"])
    if entry.type == ImageSize and isinstance(allowed, Range):
        return f"one or two {allowed.words('whole numbers')} (height width)"
    if isinstance(entry.type, type) or allowed is None:
        kind = KINDS[entry.type]
        return kind if allowed is None else allowed.words(kind)
    count = "two" if Ellipsis not in get_args(entry.type) else "one or more"
    return f"{count} {allowed.words('numbers')}"


def takes_list(entry: "Field[Any]") -> bool:
    """Whether the key takes several numbers."""
    return entry.type not in KINDS


def read_value(entry: "Field[Any]", text: str | Sequence[str]) -> Value:
    """The value of a key from its text (a list of texts for a list).

    Raises:
        ValueError: the text is of the wrong type or its value out of range; the message is the sentence's end,
            `takes ...; not ...`.
    """
    try:
        value = check_value(entry, _read(entry.type, text))
        # Path would drop a trailing slash and turn nothing into '.'.
        return os.path.expanduser(str(value)) if isinstance(entry.metadata["allowed"], Location) else value  # noqa: PTH111
    except ValueError:
        raise ValueError(_refusal(entry, text)) from None


def check_value(entry: "Field[Any]", value: object) -> Value:
    """The value itself when the key may hold it; lists become tuples and whole numbers floats where that is the type.

    Raises:
        ValueError: it may not; the message is `takes ...; not ...`.
    """
    fitted = _fit_type(entry.type, value)
    allowed = entry.metadata["allowed"]
    single = fitted if isinstance(fitted, tuple) else (fitted,)
    if fitted is None or not single or (allowed and not all(allowed.allows(item) for item in single)):
        raise ValueError(_refusal(entry, value))
    return fitted


def _refusal(entry: "Field[Any]", value: object) -> str:
    shown = value if isinstance(value, str) else _shown(value)
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
    sentence = f"takes {allowed_words(entry)}; not '{shown}'"
    allowed = entry.metadata["allowed"]
    if isinstance(allowed, OneOf) and entry.type is str and shown:
        sentence += f"; did you mean '{nearest(shown, allowed.values)}'?"
    return sentence


def _shown(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _fit_type(kind: object, value: object) -> Value | None:
    """The value as the type `kind`, or None where it is of another."""
    if kind in (bool, str):
        return cast(Value, value) if type(value) is kind else None
    if isinstance(value, list | tuple):
        items = tuple(_fit_type(int if kind == ImageSize else float, item) for item in value)
        fixed = kind == ImageSize or kind == tuple[float, float]
        wrong = kind in (int, float) or None in items or (fixed and len(items) != 2)
        return None if wrong else cast(Value, items)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if kind in (int, ImageSize):
        return value if isinstance(value, int) else None
    if kind == tuple[float, ...]:
        return (float(value),)
    return float(value) if kind is float else None


def _read(kind: object, text: str | Sequence[str]) -> object:
    """The text as the type `kind`, or None where it is of another; a list may hold such Nones."""
    if kind not in KINDS:
        item, separators = (int, r"[\s,xX]+") if kind == ImageSize else (float, r"[\s,]+")
        items = [_read(item, piece) for piece in _pieces(text, separators)]
        return items[0] if item is int and len(items) == 1 else items
    if not isinstance(text, str):
        return None
    if kind is int:
        return int(text) if WHOLE.fullmatch(text) else None
    if kind is float:
        return float(text) if NUMBER.fullmatch(text) else None
    return WORDS.get(text.lower()) if kind is bool else text


def _pieces(text: str | Sequence[str], separators: str) -> Sequence[str]:
    """`[0.9, 0.95]`, `(0.9 0.95)`, `0.9,0.95` or the list itself -> its pieces."""
    if not isinstance(text, str):
        return text
    inner = re.sub(r"^\s*[\[(]\s*(.*?)\s*,?\s*[\])]\s*$", r"\1", text).strip()
    return re.split(separators, inner)
