"""Notes on standard error; standard output is for results."""

import sys
from unicodedata import category


def tell(text: str) -> None:
    """One line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)


def silent(_: str) -> None:
    """For processes other than the first, and for those who have nobody to tell."""


def printable(text: str) -> str:
    """`text` on one line and harmless to a terminal: control characters and line separators as \\n, \\x1b, \\u2028."""
    bad = ("Cc", "Zl", "Zp")
    return "".join(
        repr(letter)[1:-1] if not letter.isprintable() and category(letter) in bad else letter for letter in text
    )
