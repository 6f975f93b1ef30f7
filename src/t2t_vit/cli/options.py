"""A command's line and its configuration file -> what the user said, key by key.

    options = parse("train", argv)                       # shows --help and exits by itself
    config, notes = resolve(options, checkpoint)         # of cli.resolve: line > checkpoint > file > defaults
    if options.print_config:
        print(to_yaml(config), end="")                   # of cli.config_file
        return 0

A command's own options are in `options.extras` (`output`), what infer works on are `options.words`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from t2t_vit.cli.commands import COMMANDS, Command
from t2t_vit.cli.config_file import find_config, read_config
from t2t_vit.cli.parser import parser_of
from t2t_vit.config import KEYS
from t2t_vit.config_values import Value
from t2t_vit.errors import UserError


@dataclass(frozen=True)
class Options:
    """What the user said: `line` and `file` hold only the keys that stand there, checked one by one."""

    command: Command
    line: Mapping[str, Value] = field(default_factory=dict)
    file: Mapping[str, Value] = field(default_factory=dict)
    path: Path | None = None
    extras: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    @property
    def data(self) -> str | None:
        """The word that a command of one works on."""
        return self.words[0] if self.words else None

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
    parser = parser_of(command)
    if "--help" in argv or "-h" in argv:
        parser.print_help()
        raise SystemExit(0)
    said = parser.read_line(argv)
    line = {name: said.pop(name) for name in [*said] if name in KEYS}
    word = said.pop("word", None)
    named = [word] if word is not None and command.positional == "config" else []
    named += [said.pop(name) for name in ("config", "config_path") if name in said]
    if len(set(named)) > 1:
        raise UserError(f"{command.name} takes one configuration; not {named[0]} and {named[1]}")
    data = said.pop("words", () if word is None or command.positional != "data" else (word,))
    if command.positional == "data" and not data and not {"print_config", "list"} & said.keys():
        what = _either(command.subjects) if command.subjects else "an image file or a folder of them"
        raise UserError(f"{command.name} needs what to work on: {what}")
    if command.subjects and data and data[0] not in command.subjects:
        raise UserError(f"{command.name} works on {_either(command.subjects)}; not on '{data[0]}'")
    path = find_config(named[0]) if named else None
    return Options(command, line, read_config(path) if path else {}, path, said, data)


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
