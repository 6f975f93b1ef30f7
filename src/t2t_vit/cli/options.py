"""A command's line and its configuration file -> what the user said, key by key.

    options = parse("train", argv)                       # shows --help and exits by itself
    config, notes = resolve(options, checkpoint)         # of cli.resolve: line > checkpoint > file > defaults
    if options.print_config:
        print(to_yaml(config), end="")                   # of cli.config_file
        return 0

A command's own options are in `options.extras` (`output`), what infer works on is `options.data`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from t2t_vit.cli.commands import COMMANDS, Command
from t2t_vit.cli.config_file import find_config, read_config
from t2t_vit.cli.line import Line, read_line
from t2t_vit.config import KEYS
from t2t_vit.config_values import Value, read_value
from t2t_vit.errors import UserError


@dataclass(frozen=True)
class Options:
    """What the user said: `line` and `file` hold only the keys that stand there, checked one by one."""

    command: Command
    line: Mapping[str, Value] = field(default_factory=dict)
    file: Mapping[str, Value] = field(default_factory=dict)
    path: Path | None = None
    extras: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None

    @property
    def print_config(self) -> bool:
        return "print_config" in self.extras

    @property
    def checkpoint(self) -> str:
        """`pretrained` of the line or the file; empty where neither names one."""
        return str(self.said("pretrained", ""))

    def said(self, name: str, default: Value) -> Value:
        """The key's value on the line or in the file, or `default` where neither names it."""
        return self.line.get(name, self.file.get(name, default))

    def required_checkpoint(self) -> str:
        """The checkpoint of a command that cannot do without.

        Raises:
            UserError: none is named.
        """
        if not self.checkpoint:
            option = self.command.spelling("pretrained")
            raise UserError(f"{self.command.name} needs a checkpoint; name one with --{option} FILE")
        return self.checkpoint


def parse(command: str | Command, argv: Sequence[str]) -> Options:
    """Read the words of a command's line and the configuration file that they name.

    Raises:
        SystemExit: `--help` was asked for and is printed.
        UserError: a mistake on the line or in the file, told in one sentence.
    """
    command = COMMANDS[command] if isinstance(command, str) else command
    if "--help" in argv or "-h" in argv:
        from t2t_vit.cli.help import help_text  # only where it is asked for

        print(help_text(command), end="")
        raise SystemExit(0)
    line = read_line(command, argv)
    typed = {name: _typed(command, name, text) for name, text in line.keys.items()}
    data, words = _positional(command, line)
    path = _config_path(command, line, words)
    extras = {name: text for name, text in line.extras.items() if name not in ("config", "config_path")}
    return Options(command, typed, read_config(path) if path else {}, path, extras, data)


def _typed(command: Command, name: str, text: str) -> Value:
    try:
        return read_value(KEYS[name], text)
    except ValueError as error:
        raise UserError(f"--{command.spelling(name)} {error}") from None


def _positional(command: Command, line: Line) -> tuple[str | None, list[str]]:
    """What is worked on, and the remaining words without an option."""
    if command.positional != "data":
        return None, line.words
    if not line.words and "print_config" not in line.extras:
        raise UserError(f"{command.name} needs what to work on: an image file or a folder of them")
    return (line.words[0] if line.words else None), line.words[1:]


def _config_path(command: Command, line: Line, words: Sequence[str]) -> Path | None:
    named = [*words[: command.positional == "config"]]
    named += [line.extras[name] for name in ("config", "config_path") if name in line.extras]
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and key in command.options:
            raise UserError(f"unexpected word '{word}' on the line of {command.name}; write --{word}")
    unexpected = words[command.positional == "config" :]
    if unexpected:
        raise UserError(f"unexpected word '{unexpected[0]}' on the line of {command.name}; options are --KEY VALUE")
    if len(set(named)) > 1:
        raise UserError(f"{command.name} takes one configuration; not {named[0]} and {named[1]}")
    return find_config(named[0]) if named else None
