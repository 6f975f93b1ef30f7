"""What a key may hold, in words, and the way from text to a value.

A word of the command line and a scalar of a YAML file are the same text and are read by the same rules, so `5e-4`,
`yes` and `[0.9, 0.95]` mean the same in both.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from t2t_vit.settings.names import nearest_value

Value = bool | int | float | str | tuple[float, ...] | tuple[int, int]
ImageSize = int | tuple[int, int]

WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WORDS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
LARGEST = 2**63 - 1  # limit of a whole number: torch and numpy use 64 bits
LONGEST = 100  # characters of a refused value to show
KINDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; a bound that is `open` is itself not allowed; `also` lists single exceptions.

    `named` are words that stand for numbers which nobody may write as such.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: tuple[int, ...] = ()
    named: tuple[tuple[str, int], ...] = ()

    def allows(self, value: float) -> bool:
        above = value > self.low or (value == self.low and not self.open_low)
        below = value < self.high or (value == self.high and not self.open_high)
        return (above and below) or value in self.also or value in dict(self.named).values()

    def words(self, kind: str) -> str:
        also = "".join(f"{value}, or " for value in [*dict(self.named), *self.also])
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
    """A file or a folder, or nothing; `~` stands for the home folder. `form` says what it is, in words."""

    form: str = "a path"

    def allows(self, value: str) -> bool:
        return "\0" not in value

    def words(self, _kind: str) -> str:
        return self.form


Allowed = Range | OneOf | Written | Location


@dataclass(frozen=True)
class Key:
    """A configuration key, or an option that one command has beside them.

    kind      int, float, bool, str, ImageSize, or a tuple of floats: two, or one and more
    default   its value where nobody says anything
    meaning   one line for `--help`
    allowed   which values of its kind it may hold; None: all
    """

    name: str
    kind: object
    default: Value
    meaning: str
    allowed: Allowed | None = None

    @property
    def words(self) -> str:
        """What the key may hold, in words: `a whole number of at least 1`."""
        if self.kind == ImageSize and isinstance(self.allowed, Range):
            return f"one or two {self.allowed.words('whole numbers')} (height width)"
        if isinstance(self.kind, type) or self.allowed is None:
            kind = KINDS[self.kind]
            return kind if self.allowed is None else self.allowed.words(kind)
        count = "two" if Ellipsis not in get_args(self.kind) else "one or more"
        return f"{count} {self.allowed.words('numbers')}"

    @property
    def takes_list(self) -> bool:
        """Whether the key takes several numbers."""
        return self.kind not in KINDS

    def read(self, text: str | Sequence[str]) -> Value:
        """The value from its text (a list of texts for a list).

        Raises:
            ValueError: the text is of the wrong kind or its value out of range; the message is the sentence's end,
                `takes ...; not ...`.
        """
        named = dict(self.allowed.named) if isinstance(self.allowed, Range) else {}
        if isinstance(text, str) and text in named:
            return named[text]
        try:
            value = self.check(_read(self.kind, text))
        except ValueError:
            raise ValueError(self._refusal(text)) from None
        if value in named.values():
            raise ValueError(self._refusal(text))
        # Path would drop a trailing slash and turn nothing into '.'.
        return os.path.expanduser(str(value)) if isinstance(self.allowed, Location) else value  # noqa: PTH111

    def check(self, value: object) -> Value:
        """The value itself when the key may hold it; lists become tuples, whole numbers floats where the kind is float.

        Raises:
            ValueError: it may not; the message is `takes ...; not ...`.
        """
        if isinstance(value, str) and isinstance(self.allowed, Range) and value in dict(self.allowed.named):
            return dict(self.allowed.named)[value]
        fitted = _fit(self.kind, value)
        single = fitted if isinstance(fitted, tuple) else (fitted,)
        if fitted is None or not single or (self.allowed and not all(self.allowed.allows(item) for item in single)):  # type: ignore[arg-type]
            raise ValueError(self._refusal(value))
        return fitted

    def written(self, value: object) -> object:
        """The value as a file and the command line have it: a number that has a name by its name."""
        named = dict(self.allowed.named) if isinstance(self.allowed, Range) else {}
        return next((name for name, number in named.items() if number == value), value)

    def _refusal(self, value: object) -> str:
        shown = value if isinstance(value, str) else _shown(value)
        shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
        sentence = f"takes {self.words}; not '{shown}'"
        if isinstance(self.allowed, OneOf) and self.kind is str and shown:
            sentence += f"; did you mean '{nearest_value(shown, self.allowed.values)}'?"
        return sentence


def _shown(value: object) -> str:
    try:
        return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
    except ValueError:  # Python does not print whole numbers of more than 4300 digits
        return "a number of thousands of digits"


def spelt(value: object) -> str:
    """A value as it is written on the command line: `0.9 0.95`."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _fit(kind: object, value: object) -> Value | None:
    """The value as one of `kind`, or None where it is of another."""
    if kind in (bool, str):
        return cast(Value, value) if type(value) is kind else None
    if isinstance(value, list | tuple):
        items = tuple(_fit(int if kind == ImageSize else float, item) for item in value)
        fixed = kind == ImageSize or kind == tuple[float, float]
        wrong = kind in (int, float) or None in items or (fixed and len(items) != 2)
        return None if wrong else cast(Value, items)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if abs(value) > LARGEST if isinstance(value, int) else not math.isfinite(value):
        return None
    if kind in (int, ImageSize):
        return value if isinstance(value, int) else None
    if kind == tuple[float, ...]:
        return (float(value),)
    return float(value) if kind is float else None


def _read(kind: object, text: str | Sequence[str]) -> object:
    """The text as one of `kind`, or None where it is of another; a list may hold such Nones."""
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
