"""A command's parser: jsonargparse over the fields of the configuration, with its habits tamed.

It reads the line and the configuration file, each for itself and without defaults, so that what stands in the file
never overrides the line. Options are spelt in full, no environment variable is read, a mistake is one sentence.
"""

import re
from argparse import SUPPRESS
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from functools import cache, partial
from itertools import takewhile
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from t2t_vit.cli.commands import Command
from t2t_vit.cli.help import RULES, HelpFormatter, meaning, metavar
from t2t_vit.config import KEYS, SECTIONS
from t2t_vit.config_names import nearest_key
from t2t_vit.config_values import NUMBER, Value, allowed_words, check_value, default_of, read_value, takes_list
from t2t_vit.errors import UserError

PIECE = re.compile(rf"[\[(]*({NUMBER.pattern})?([xX]\d+)?[\])]*,?", re.ASCII)


@dataclass(frozen=True)
class Placed:
    """A key's text, or texts of a list, that knows where in a file it stands: `recipe.yaml:3`."""

    where: str
    text: str | list[str]


class Parser(ArgumentParser):
    """The parser of one command."""

    def __init__(self, command: Command) -> None:
        super().__init__(
            prog=f"t2t-vit {command.name}",
            usage=command.usage,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=RULES,
            formatter_class=HelpFormatter,
            add_help=False,
            allow_abbrev=False,
            default_env=False,
            print_config=None,
        )
        self.command = command
        # As of Python 3.14: -1e-3 is a number, too, and no option.
        self._negative_number_matcher = re.compile(r"-\.?\d")
        if command.positional and not command.several:
            self.add_argument("word", nargs="?", help=SUPPRESS)

    def read_line(self, argv: Sequence[str]) -> dict[str, Any]:
        """Values of the keys and texts of the other options that stand on the line; `word` is the one without, or
        `words` are they.

        Raises:
            UserError: an unknown option, a missing value, or a value that the option does not take.
        """
        for word in takewhile(lambda word: word != "--", argv):
            # Left to itself, jsonargparse takes --epochs.x for --epochs, and '--no option' for a word.
            if word.startswith("--") and word[2:].partition("=")[0] not in self.command.options:
                raise UserError(self._unexpected(word))
        whole, words = _with_whole_lists(argv), list[str]()
        if self.command.several:
            whole, words = _words_apart(self.command, whole)
        read = vars(self.parse_args(whole, env=False, defaults=False)) | {"words": tuple(words) or None}
        word = read.get("word") or ""
        if self.command.positional == "config" and word.partition("=")[0] in self.command.options and "=" in word:
            raise UserError(self._unexpected(word))
        return {name: value for name, value in read.items() if value is not None}

    def read_file(self, values: Mapping[str, Placed]) -> dict[str, Value]:
        """Values of the keys that stand in a file.

        Raises:
            UserError: a value that the key does not take.
        """
        return vars(self.parse_object(dict(values), env=False, defaults=False))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One sentence instead of the usage."""
        option = getattr(ex, "argument_name", None)
        if option is None:
            if ex is not None:
                raise ex  # our own mistake
            rest = message.partition("arguments: ")[2]  # "unrecognized arguments: a b"
            raise UserError(self._unexpected(max(filter(rest.startswith, self.args), key=len)))
        _, _, surplus = message.partition("ignored explicit argument ")
        if surplus:
            raise UserError(f"{option} takes no value; not {surplus}")
        entry = KEYS.get(option[2:])
        raise UserError(f"{option} needs a value: {allowed_words(entry) if entry else 'a path'}")

    def _unexpected(self, word: str) -> str:
        key, equals, _ = word.partition("=")
        if word.startswith("-"):
            near = nearest_key(key.lstrip("-"), self.command.options)
            return f"unknown option '{key}'; did you mean '--{near}'?"
        hint = f"write --{word}" if equals and key in self.command.options else "options are --KEY VALUE"
        return f"unexpected word '{word}' on the line of {self.command.name}; {hint}"


@cache
def parser_of(command: Command) -> Parser:
    """The parser of a command: an option of its own each, then one a configuration key, by section."""
    parser = Parser(command)
    options = parser.add_argument_group("Options")
    for alias, name in command.aliases:
        shown = "FILE" if KEYS[name].name == "pretrained" else metavar(KEYS[name])
        _add_key(options, f"--{alias}", KEYS[name], dest=name, metavar=shown, help=f"the same as --{name}")
    for extra in command.extras:
        kind: dict[str, Any] = {"metavar": extra.metavar} if extra.metavar else {"action": "store_const", "const": ""}
        options.add_argument(f"--{extra.name}", help=extra.meaning, **kind)
    options.add_argument("--help", action="help", help="show this text and end")
    for title, names in SECTIONS.items():
        section = parser.add_argument_group(title)
        for entry in (KEYS[name] for name in names):
            shown = meaning(entry) if entry.name in command.uses else SUPPRESS
            _add_key(section, f"--{entry.name}", entry, metavar=metavar(entry), help=shown)
    unused = [name for name in KEYS if name not in command.uses]
    if unused:
        which = ", ".join(unused) if len(unused) < 5 else "all other keys of t2t-vit train --help"
        parser.add_argument_group("Accepted and without effect here", which)
    return parser


def _add_key(group: Any, option: str, entry: "Field[Any]", **told: Any) -> None:
    group.add_argument(option, type=partial(_value, entry, option), default=default_of(entry), **told)


def _value(entry: "Field[Any]", option: str, given: object) -> Value:
    """The type of a key, as argparse means it: a text, or a value that was read already -> the checked value.

    jsonargparse's own types would take 0x10 and 1:30 for whole numbers, .inf for a number and 1 not for True.
    """
    where, text = (f"{given.where}: {entry.name}", given.text) if isinstance(given, Placed) else (option, given)
    try:
        return read_value(entry, text) if isinstance(text, str | list) else check_value(entry, text)
    except ValueError as error:
        raise UserError(f"{where} {error}") from None


def _with_whole_lists(argv: Sequence[str]) -> list[str]:
    """`--beta 0.9 0.95` and `--beta=[0.9, 0.95]`, which the shell cuts into two words, -> `--beta=0.9 0.95`.

    Only what can be part of a list is taken: in `--image_size 224 photos` the photos are a word of their own.
    """
    words, rest = list[str](), deque(argv)
    while rest:
        word = rest.popleft()
        option, equals, text = word.partition("=")
        if word == "--":
            return [*words, word, *rest]
        if option[:2] == "--" and option[2:] in KEYS and takes_list(KEYS[option[2:]]):
            pieces = [text] if equals else []
            while rest and rest[0] and PIECE.fullmatch(rest[0]) and (not equals or _is_open(pieces)):
                pieces.append(rest.popleft())
            word = f"{option}={' '.join(pieces)}" if pieces else option
        words.append(word)
    return words


def _words_apart(command: Command, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options with their values, short ones spelt out and implied values added, and the words without an option.

    argparse knows no words on both sides of an option, which `infer *.png --checkpoint F more/*.png` needs.
    """
    flags = {extra.name for extra in command.extras if not extra.metavar} | {"help"}
    short = {extra.short: f"--{extra.name}" for extra in command.extras if extra.short}
    implied = dict(command.implied)
    options, words, rest = list[str](), list[str](), deque(argv)
    while rest:
        word = rest.popleft()
        name = word[2:]
        if word == "--":
            return options, [*words, *rest]
        if word == "-" or not word.startswith("-"):
            words.append(word)
        elif word in short or "=" in word or name in flags:
            options.append(short.get(word, word))
        elif name in implied and (not rest or rest[0] not in ("", implied[name])):
            options.append(f"{word}={implied[name]}")
        else:
            options += [word, rest.popleft()] if rest else [word]
    return options, words


def _is_open(pieces: Sequence[str]) -> bool:
    text = "".join(pieces)
    return text.count("[") + text.count("(") > text.count("]") + text.count(")")
