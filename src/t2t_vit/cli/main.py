"""`t2t-vit COMMAND ...`: finds the command, and turns a user's mistake into one sentence and an exit code.

The module of a command is imported when the command is called, so that the program's help imports no torch.
"""

import errno
import gc
import io
import os
import sys
import zlib
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TextIO

from t2t_vit.cli.launch import IN_PART
from t2t_vit.errors import UserError, printable
from t2t_vit.out_of_memory import is_out_of_memory, out_of_memory_sentence
from t2t_vit.settings.commands import COMMANDS
from t2t_vit.settings.names import nearest_command
from t2t_vit.training.signals import Stopped, heard, stop_at_once
from t2t_vit.training.waiting import shown_before_a_run
from t2t_vit.version import __version__

USAGE = """\
Usage: t2t-vit COMMAND ...

Tokens-to-Token Vision Transformers: train, evaluate, predict and export.

Commands
{commands}

t2t-vit COMMAND --help lists the options of a command; t2t-vit --version prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 done in part, 2 the user's mistake, 128 + a signal's number."""
    words = list(sys.argv[1:] if argv is None else argv)
    # A stream closed by the caller (`2>&-`) is None, and printing to None would go to standard output.
    sys.stdout, sys.stderr = (stream or _nowhere() for stream in (sys.stdout, sys.stderr))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    with heard(stop_at_once):
        code = _exit_code(words)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from t2t_vit.training.distributed import leave

        gc.collect()  # frees semaphores; otherwise Python's resource tracker complains
        leave(IN_PART if code == 1 else code)
    return code


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _exit_code(words: list[str]) -> int:
    """Run the command; how it ended, printed in one sentence where it did not end well."""
    try:
        return _dispatch(words)
    except UserError as error:
        _say(" ".join(str(error).splitlines()))
        return 2
    except Stopped as stopped:
        # If one of several processes fails, torchrun stops the others: no need to report those.
        _say("interrupted" if stopped.name == "SIGINT" else f"stopped by {stopped.name}", if_first=True)
        return int(stopped.code or 0)
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        _discard_output()  # the reader (`| head`) has ended
        return 141
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _discard_output()
            _say(f"the output cannot be written ({error.strerror})")
            return 2
        if is_out_of_memory(error):
            _say(out_of_memory_sentence(error, words[0]))
            return 2
        raise


def _say(text: str, *, if_first: bool = False) -> None:
    """One line on standard error; what torchrun's processes on a machine all have to say, the first one says.

    if_first: it is printed only where no process has printed anything yet.
    """
    if shared := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        folder = Path(shared).parent.parent  # .../attempt_0/RANK/error.json
        if if_first and any(folder.glob("said-*")):
            return
        said = folder / f"said-{zlib.crc32(text.encode())}"
        try:
            said.touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:
            pass
    with suppress(OSError):
        print(f"t2t-vit: {printable(text)}", file=sys.stderr)


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
    from t2t_vit.settings.command_line import parse  # not for the program's own help

    # Options are parsed before the command is imported, so help and mistakes need not wait for torch.
    options = parse(name, rest)
    with shown_before_a_run(is_run=COMMANDS[name].trains and not options.print_config):
        return _finished(import_module(f"t2t_vit.cli.{name}").run(options))


def _discard_output() -> None:
    """What is still to be flushed goes nowhere: Python would complain again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _finished(code: int) -> int:
    sys.stdout.flush()
    return code


def _usage() -> str:
    commands = "\n".join(f"  {command.name:<12}{command.summary}" for command in COMMANDS.values())
    return USAGE.format(commands=commands)


def _unknown(name: str) -> str:
    if name.startswith("-"):
        return f"'{name}' comes before the command; write t2t-vit COMMAND {name} ..., where COMMAND is {_listed()}"
    return f"unknown command '{name}'; did you mean '{nearest_command(name, COMMANDS)}'? The commands are {_listed()}"


def _listed() -> str:
    *first, last = COMMANDS
    return f"{', '.join(first)} and {last}"
