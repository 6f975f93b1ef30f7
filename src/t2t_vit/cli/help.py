"""The look of a command's `--help`: every option by section, with its meaning and default, fitted to the terminal."""

import shutil
from argparse import Action
from dataclasses import Field
from typing import Any

from jsonargparse import DefaultHelpFormatter

from t2t_vit.config_values import ImageSize, Location, OneOf, default_of

WIDEST = 110
COLUMN = 35
METAVARS = {int: "INT", float: "NUMBER", bool: "BOOL", str: "TEXT", ImageSize: "INT [INT]"}
RULES = """\
A key is given as --key value or --key=value (so where the value begins with a dash), lists as --beta 0.9 0.95 or
--beta=[0.9,0.95]. An option beats the configuration file wherever it stands; the last one counts of an option that is
given twice."""


class HelpFormatter(DefaultHelpFormatter):
    """Meanings in one column, lines never wider than the terminal; the texts are those of `add_argument` alone."""

    def __init__(self, prog: str) -> None:
        width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
        super().__init__(prog, max_help_position=COLUMN, width=width)  # type: ignore[no-untyped-call]

    def add_usage(self, *args: Any, **_kwargs: Any) -> None:
        self.add_text(f"Usage: {args[0]}")

    def _get_help_string(self, action: Action) -> str:
        return action.help or ""


def metavar(entry: "Field[Any]") -> str:
    """What stands for the key's value: `INT`."""
    if isinstance(entry.metadata["allowed"], Location):
        return "PATH"
    return METAVARS.get(entry.type, "NUMBER ...")


def meaning(entry: "Field[Any]") -> str:
    """What the key means, may be and is by default."""
    allowed, text = entry.metadata["allowed"], entry.metadata["meaning"]
    if isinstance(allowed, OneOf) and not all(f"{value}" in text for value in allowed.values):
        text += f": {', '.join(map(str, allowed.values))}"
    return f"{text} (default: {_shown(default_of(entry))})"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return "empty" if value == "" else str(value)
