"""`t2t-vit COMMAND ...`: finds the command, and turns a user's mistake into one sentence and an exit code.

The module of a command is imported when the command is called, so that the program's help imports no torch.
"""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from t2t_vit import __version__
from t2t_vit.cli.commands import COMMANDS
from t2t_vit.config_names import nearest
from t2t_vit.errors import UserError

USAGE = """\
Usage: t2t-vit COMMAND ...

Tokens-to-Token Vision Transformers: train, evaluate, predict and export.

Commands
{commands}

t2t-vit COMMAND --help lists the options of a command; t2t-vit --version tells the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 done in part, 2 the user's mistake, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be valid text
    try:
        return _dispatch(words)
    except UserError as error:
        print(f"t2t-vit: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("t2t-vit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(words: list[str]) -> int:
    if not words:
        print(_usage(), end="", file=sys.stderr)
        return 2
    name, *rest = words
    if name in ("--help", "-h", "help"):
        print(_usage(), end="")
        return 0
    if name == "--version":
        print(f"t2t-vit {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(_unknown(name))
    from t2t_vit.cli.options import parse  # not for the program's own help

    # The line is read before the command is imported: help and mistakes need not wait for torch.
    options = parse(name, rest)
    code: int = import_module(f"t2t_vit.cli.{name}").run(options)
    sys.stdout.flush()
    return code


def _usage() -> str:
    return USAGE.format(commands="\n".join(f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()))


def _unknown(name: str) -> str:
    if name.startswith("-"):
        return f"'{name}' stands before any command; write t2t-vit COMMAND {name} ..., COMMAND being {_listed()}"
    return f"unknown command '{name}'; did you mean '{nearest(name, COMMANDS)}'? There are {_listed()}"


def _listed() -> str:
    *first, last = COMMANDS
    return f"{', '.join(first)} and {last}"
