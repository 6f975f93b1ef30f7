"""A command line's words -> texts by option; strict: no abbreviations, no guesses, one sentence for a mistake."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from t2t_vit.cli.commands import Command
from t2t_vit.config import KEYS
from t2t_vit.config_names import nearest_key
from t2t_vit.config_values import NUMBER, allowed_words, takes_list
from t2t_vit.errors import UserError

PIECE = re.compile(rf"[\[(]*({NUMBER.pattern})?([xX]\d+)?[\])]*,?", re.ASCII)


@dataclass
class Line:
    """What stood on the line: configuration keys, the command's own options, and the words without an option."""

    keys: dict[str, str] = field(default_factory=dict)
    extras: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


def read_line(command: Command, argv: Sequence[str]) -> Line:
    """Sort the words of a command line.

    `--key value`, `--key=value` and, for lists, `--key value value` are understood. The last one counts of an option
    that is given twice. After `--` every word stands for itself.

    Raises:
        UserError: an unknown option, a missing value, or a value where none belongs.
    """
    line, words = Line(), deque(argv)
    while words:
        word = words.popleft()
        if word == "--":
            line.words.extend(words)
            break
        if not word.startswith("-") or word == "-":
            line.words.append(word)
        else:
            _read_option(command, word, words, line)
    return line


def _read_option(command: Command, word: str, words: deque[str], line: Line) -> None:
    spelt, equals, text = word.lstrip("-").partition("=")
    if not word.startswith("--") or spelt not in command.options:
        raise UserError(
            f"unknown option '{word.partition('=')[0]}'; did you mean '--{nearest_key(spelt, command.options)}'?"
        )
    name = dict(command.aliases).get(spelt, spelt)
    extra = next((extra for extra in command.extras if extra.name == name), None)
    if extra is not None and not extra.metavar:
        if equals:
            raise UserError(f"--{name} takes no value; not '{text}'")
        line.extras[name] = ""
        return
    if not equals:
        text = _next_value(spelt, name, words)
    if name in KEYS and takes_list(KEYS[name]):
        text = _rest_of_list(text, words, equals != "")
    (line.extras if extra else line.keys)[name] = text


def _next_value(spelt: str, name: str, words: deque[str]) -> str:
    if not words or words[0].startswith("--"):
        wanted = allowed_words(KEYS[name]) if name in KEYS else "a path"
        raise UserError(f"--{spelt} needs a value: {wanted}")
    return words.popleft()


def _rest_of_list(text: str, words: deque[str], after_equals: bool) -> str:
    """`[0.9,` and the following `0.95]`, or `0.9` and the following `0.95` -> one text."""
    pieces = [text]
    while words and words[0] and PIECE.fullmatch(words[0]):
        if after_equals and not _is_open(" ".join(pieces)):
            break
        pieces.append(words.popleft())
    return " ".join(pieces)


def _is_open(text: str) -> bool:
    return text.count("[") + text.count("(") > text.count("]") + text.count(")")
