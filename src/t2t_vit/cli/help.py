"""The text of `--help`: every option by section, with its meaning and default, fitted to the terminal."""

import shutil
import textwrap
from dataclasses import Field
from typing import Any

from t2t_vit.cli.commands import Command
from t2t_vit.config import KEYS, SECTIONS
from t2t_vit.config_values import ImageSize, Location, OneOf, default_of

WIDEST = 110
COLUMN = 34
METAVARS = {int: "INT", float: "NUMBER", bool: "BOOL", str: "TEXT", ImageSize: "INT [INT]"}
RULES = """\
A key is given as --key value or --key=value, lists as --beta 0.9 0.95 or --beta=[0.9,0.95]. An option beats the
configuration file wherever it stands; the last one counts of an option that is given twice."""


def help_text(command: Command) -> str:
    """The whole help of a command."""
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    summary = f"{command.summary[0].upper()}{command.summary[1:]}."
    lines = [*textwrap.wrap(f"Usage: {command.usage}", width, subsequent_indent=" " * 9), ""]
    lines += [*textwrap.wrap(summary, width), "", "Options"]
    for alias, key in command.aliases:
        lines += _entry(f"--{alias} FILE", f"the same as --{key}", width)
    for extra in command.extras:
        lines += _entry(f"--{extra.name} {extra.metavar}".rstrip(), extra.meaning, width)
    lines += _entry("--help", "show this text and end", width)
    for title, names in SECTIONS.items():
        used = [KEYS[name] for name in names if name in command.uses]
        lines += ["", title] if used else []
        for entry in used:
            lines += _entry(f"--{entry.name} {_metavar(entry)}", _meaning(entry), width)
    return "\n".join([*lines, *_unused(command, width), "", *textwrap.wrap(RULES, width)]) + "\n"


def _entry(option: str, meaning: str, width: int) -> list[str]:
    """`  --option VALUE     meaning`, the meaning wrapped in its own column."""
    text = textwrap.wrap(meaning, max(20, width - COLUMN), break_long_words=False, break_on_hyphens=False)
    head = f"  {option}"
    first = [f"{head:<{COLUMN}}{text[0]}"] if len(head) < COLUMN else [head, " " * COLUMN + text[0]]
    return first + [" " * COLUMN + line for line in text[1:]]


def _metavar(entry: "Field[Any]") -> str:
    if isinstance(entry.metadata["allowed"], Location):
        return "PATH"
    return METAVARS.get(entry.type, "NUMBER ...")


def _meaning(entry: "Field[Any]") -> str:
    allowed, meaning = entry.metadata["allowed"], entry.metadata["meaning"]
    if isinstance(allowed, OneOf) and not all(f"{value}" in meaning for value in allowed.values):
        meaning += f": {', '.join(map(str, allowed.values))}"
    return f"{meaning} (default: {_shown(default_of(entry))})"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return "empty" if value == "" else str(value)


def _unused(command: Command, width: int) -> list[str]:
    """On the keys that the command accepts, because a file shared with training holds them, and does not use."""
    unused = [name for name in KEYS if name not in command.uses]
    if not unused:
        return []
    which = ", ".join(unused) if len(unused) < 5 else "all other keys of t2t-vit train --help"
    return ["", *textwrap.wrap(f"Accepted and without effect here: {which}", width)]
