"""The words of a command line, and the configuration file that they name -> what the user said, key by key.

    options = parse("train", words)                      # shows --help and exits by itself
    config, notes = resolve(options, checkpoint)         # command line > checkpoint > file > defaults
    if options.print_config:
        print(to_yaml(config), end="")
        return 0

It is argparse over the table of commands, with its habits tamed: options are spelt in full, words without an option
may stand on both sides of one, a mistake is one sentence. Command line and file are read each for itself and without
defaults, so that what stands in the file never overrides the command line.
"""

import re
from argparse import SUPPRESS, ArgumentError, ArgumentParser
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.settings.commands import COMMANDS, DEVICE, Command, Extra
from t2t_vit.settings.devices import device_keys
from t2t_vit.settings.file import WEIGHTS, find_config, images_are_named, read_config
from t2t_vit.settings.help import RULES, Page, meaning, metavar
from t2t_vit.settings.names import IMAGES, nearest_key
from t2t_vit.settings.schema import KEYS, SECTIONS
from t2t_vit.settings.values import NUMBER, Key, Value

PIECE = re.compile(rf"[\[(]*({NUMBER.pattern})?([xX]\d+)?[\])]*,?", re.ASCII)


@dataclass(frozen=True)
class Options:
    """What the user said: `line` and `file` hold only the keys that stand there, checked one by one.

    path     the configuration file
    extras   options of the command that are no configuration keys
    words    what stands there without an option, such as the images of infer
    """

    command: Command
    line: Mapping[str, Value] = field(default_factory=dict)
    file: Mapping[str, Value] = field(default_factory=dict)
    path: Path | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        """The word that a command of one works on."""
        return self.words[0] if self.words else ""

    @property
    def print_config(self) -> bool:
        return "print_config" in self.extras

    @property
    def checkpoint(self) -> str:
        """`pretrained` of the command line or the file; empty where neither names one."""
        return str(self.said("pretrained", ""))

    def said(self, name: str, default: Value) -> Value:
        """The key's value on the command line or in the file, or `default` where neither names it."""
        return self.line.get(name, self.file.get(name, default))

    def extra(self, name: str) -> Any:
        """The value of an option of the command that is no configuration key, or its default."""
        return self.extras.get(name, self.command.options[name].default)

    def required_checkpoint(self) -> str:
        """The checkpoint of a command that cannot do without.

        Raises:
            UserError: none is named.
        """
        if not self.checkpoint:
            option = self.command.spelling("pretrained")
            raise UserError(f"{self.command.name} needs a checkpoint; give one with --{option} FILE")
        return self.checkpoint


def parse(command: str, argv: Sequence[str]) -> Options:
    """Read the words that follow a command, and the configuration file that they name.

    Raises:
        SystemExit: `--help` was asked for and is printed.
        UserError: a mistake on the command line or in the file, in one sentence.
    """
    called = COMMANDS[command]
    # Without arguments, a command with positional words and no keys prints its help.
    if "--help" in argv or "-h" in argv or (called.positional and not (argv or called.keys)):
        parser_of(called).print_help()
        raise SystemExit(0)
    said, words = read_words(called, argv)
    line = {name: said.pop(name) for name in [*said] if name in called.keys}
    line |= device_keys(str(said.pop(DEVICE.name)), line) if DEVICE.name in said else {}
    named = list(words) if called.positional == "config" else []
    named += [str(said.pop(name)) for name in ("config", "config_path") if name in said]
    if len(set(named)) > 1:
        raise UserError(f"{called.name} takes one configuration; not {named[0]} and {named[1]}")
    data = words if called.positional == "data" else ()
    if called.positional == "data" and (data or not {"print_config", "list"} & said.keys()):
        _check_data(called, data)
    path = find_config(named[0]) if named else None
    return Options(called, line, read_config(path) if path else {}, path, said, data)


def read_words(command: Command, argv: Sequence[str]) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Values of the options that are on the command line, and the words without an option.

    Raises:
        UserError: an unknown option, a word too many, a missing value, or a value that the option does not take.
    """
    options = command.options
    rest, words = _words_apart(command, _with_whole_lists(argv))
    try:
        said = parser_of(command).parse_args(rest)
    except ArgumentError as error:  # only for options without a value: other mistakes are found before
        key = options[str(error.argument_name).removeprefix("--")]
        raise UserError(f"{error.argument_name} needs a value: {key.words}") from None
    most = len(words) if command.several else 1 if command.positional else 0
    if command.subjects and words:
        most += len(command.subjects.get(words[0], words))
    if words[most:]:
        raise UserError(_unexpected(command, words[most]))
    if command.positional == "config" and words and _is_assignment(words[0]):
        raise UserError(_unexpected(command, words[0]))
    return vars(said), tuple(words)


@cache
def parser_of(command: Command) -> ArgumentParser:
    """The parser of a command: its own options, then the configuration keys by section; words are none of it."""
    details = f"\n\n{command.details}" if command.details else ""
    parser = ArgumentParser(
        prog=f"t2t-vit {command.name}",
        usage=command.usage,
        description=f"{command.summary[0].upper()}{command.summary[1:]}.{details}",
        epilog=RULES if command.keys else None,
        formatter_class=Page,
        argument_default=SUPPRESS,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    # As in Python 3.14: -1e-3 is a number, not an option.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    group = parser.add_argument_group("Options")
    for alias, name in command.aliases.items():
        shown = "FILE" if name == "pretrained" else metavar(KEYS[name])
        _add(group, f"--{alias}", KEYS[name], dest=name, metavar=shown, help=f"the same as --{name}")
    if "device_target" in command.uses:
        _add(group, f"--{DEVICE.name}", DEVICE, metavar=DEVICE.metavar, help=DEVICE.meaning)
    elif command.keys:
        _add(group, f"--{DEVICE.name}", DEVICE, help=SUPPRESS)
    for extra in command.extras:
        if _is_flag(extra):
            group.add_argument(f"--{extra.name}", action="store_true", default=SUPPRESS, help=extra.meaning)
        else:
            action = "append" if extra.repeats else "store"
            _add(group, f"--{extra.name}", extra, metavar=extra.metavar, help=extra.meaning, action=action)
    group.add_argument("--help", action="help", help="show this help and exit")
    for title, names in SECTIONS.items() if command.keys else ():
        section = parser.add_argument_group(title)
        for key in (KEYS[name] for name in names):
            shown = meaning(key, command.meanings.get(key.name)) if key.name in command.uses else SUPPRESS
            _add(section, f"--{key.name}", key, metavar=metavar(key), help=shown)
    unused = [name for name in command.keys if name not in command.uses]
    if unused:
        which = ", ".join(unused) if len(unused) < 5 else "all other keys of t2t-vit train --help"
        parser.add_argument_group("Accepted, but without effect here", which)
    return parser


def _add(group: Any, option: str, key: Key, **shown: Any) -> None:
    group.add_argument(option, type=partial(_value, key, option), **shown)


def _value(key: Key, option: str, text: str) -> Value:
    """The type of an option, as argparse means it."""
    try:
        return key.read(text)
    except ValueError as error:
        raise UserError(f"{option} {error}") from None


def _is_flag(option: Key) -> bool:
    return isinstance(option, Extra) and not option.metavar


def _check_data(command: Command, words: Sequence[str]) -> None:
    """Refuse a command without what it works on."""
    subjects = command.subjects
    if not words:
        raise UserError(
            f"{command.name} needs something to work on: {_either([*subjects]) if subjects else command.needs}"
        )
    if subjects and words[0] not in subjects:
        raise UserError(f"{command.name} takes {_either([*subjects])}; not '{words[0]}'")
    lacking = subjects[words[0]][len(words) - 1 :] if subjects else ()
    if lacking:
        raise UserError(f"{command.name} {words[0]} needs {' and '.join(lacking)}: t2t-vit {command.name} --help")


def _unexpected(command: Command, word: str, following: str = "") -> str:
    """The sentence on a word that is neither an option of the command nor takes a place."""
    name, equals, value = word.partition("=")
    names = [*command.options, *([IMAGES] if command.positional == "data" and not command.subjects else [])]
    near = nearest_key(name.lstrip("-"), names)
    if near == "arch" and Path(value if equals else following).suffix.lower() in WEIGHTS:
        near = nearest_key("weights", names)  # other tools' `model` is a network or a weights file
    if word.startswith("-"):
        if near == IMAGES:
            return (
                f"unknown option '{name}'; write images and folders without an option: {command.usage.splitlines()[0]}"
            )
        return f"unknown option '{name}'; did you mean '--{near}'?"
    hint = f"write --{near}={value}" if equals and name and near != IMAGES else "options are --KEY VALUE"
    if command.positional == "config" and Path(word).expanduser().is_dir():
        hint = images_are_named(word)
    return f"unexpected word '{word}' on the command line of {command.name}; {hint}"


def _with_whole_lists(argv: Sequence[str]) -> list[str]:
    """`--beta 0.9 0.95` and `--beta=[0.9, 0.95]`, which the shell cuts into two words, -> `--beta=0.9 0.95`.

    Only what can be part of a list is taken: in `--image_size 224 photos` the images are a word of their own.
    """
    words, rest = list[str](), deque(argv)
    while rest:
        word = rest.popleft()
        option, equals, text = word.partition("=")
        if word == "--":
            return [*words, word, *rest]
        if option[:2] == "--" and option[2:] in KEYS and KEYS[option[2:]].takes_list:
            pieces = [text] if equals else []
            while rest and rest[0] and PIECE.fullmatch(rest[0]) and (not equals or _is_open(pieces)):
                pieces.append(rest.popleft())
            word = f"{option}={' '.join(pieces)}" if pieces else option
        words.append(word)
    return words


def _words_apart(command: Command, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options with their values, short ones spelt out and implied values added, and the words without an option.

    argparse knows no words on both sides of an option, which `infer *.png --checkpoint F more/*.png` needs, and takes
    '--no option' for a word.

    Raises:
        UserError: an unknown option, or a flag with a value.
    """
    known = command.options
    short = {extra.short: f"--{extra.name}" for extra in command.extras if extra.short}
    options, words, rest = list[str](), list[str](), deque(argv)
    while rest:
        word = rest.popleft()
        if word == "--":
            return options, [*words, *rest]
        if word == "-" or not word.startswith("-"):
            words.append(word)
            continue
        option, equals, text = short.get(word, word).partition("=")
        name = option[2:]
        if not option.startswith("--") or name not in known:
            raise UserError(_unexpected(command, word, rest[0] if rest else ""))
        if _is_flag(known[name]):
            if equals:
                raise UserError(f"{option} takes no value; not '{text}'")
            options.append(option)
        elif equals and text != "--":  # which argparse loses
            options.append(word)
        elif not equals and name in command.implied and (not rest or rest[0] not in ("", command.implied[name])):
            options.append(f"{option}={command.implied[name]}")
        else:
            options += [option, rest.popleft()] if rest and not equals else [option]
    return options, words


def _is_assignment(word: str) -> bool:
    """Whether it is a key with its value, as `epochs=3`, and no file."""
    return re.match(r"[A-Za-z]\w*=", word) is not None and not Path(word).exists()


def _is_open(pieces: Sequence[str]) -> bool:
    text = "".join(pieces)
    return text.count("[") + text.count("(") > text.count("]") + text.count(")")


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
