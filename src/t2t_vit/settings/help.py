"""The look of a command's `--help`: every option by section, with its meaning and default, fitted to the terminal."""

import shutil
import textwrap
from argparse import HelpFormatter
from typing import Any

from t2t_vit.settings.values import ImageSize, Key, Location, OneOf

WIDEST = 110
COLUMN = 35
METAVARS = {int: "INT", float: "NUMBER", bool: "BOOL", str: "TEXT", ImageSize: "INT [INT]"}
RULES = """\
Write a key as --key value or --key=value (if the value begins with a dash, only the second works), and a list as
--beta 0.9 0.95 or --beta=[0.9,0.95]. An option overrides the configuration file wherever it stands. If an option is
given twice, the last one counts."""


class Page(HelpFormatter):
    """Meanings in one column, lines never wider than the terminal."""

    def __init__(self, prog: str) -> None:
        width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
        super().__init__(prog, max_help_position=COLUMN, width=width)

    def add_usage(self, *args: Any, **_kwargs: Any) -> None:
        """The usage as it is written in the table of commands, a line each."""
        self._add_item(self._usage, args[:1])

    def _usage(self, usage: str) -> str:
        lines = zip(("Usage: ", *[" " * 7] * 9), usage.splitlines(), strict=False)
        filled = [textwrap.fill(line, self._width, initial_indent=start) for start, line in lines]
        return "\n".join([*filled, "", ""])

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs stay apart."""
        return "\n\n".join(super(Page, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def metavar(key: Key) -> str:
    """What stands for the key's value: `INT`."""
    if isinstance(key.allowed, Location):
        return "PATH"
    return METAVARS.get(key.kind, "NUMBER ...")


def meaning(key: Key, own: str | None = None) -> str:
    """What the key means, may be and is by default; `own` is what it means to one command, in place of all that."""
    if own is not None:
        return own
    text = key.meaning
    if isinstance(key.allowed, OneOf) and not all(f"{value}" in text for value in key.allowed.values):
        text += f": {', '.join(map(str, key.allowed.values))}"
    return f"{text} (default: {_shown(key.written(key.default))})"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return "empty" if value == "" else str(value)
