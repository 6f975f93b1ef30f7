"""The one error that stands for a mistake of the user's, and how text that is not ours is printed."""

from unicodedata import category

# Control characters, separators of lines, halves of characters (bytes of a name that is no text).
_UNPRINTABLE = ("Cc", "Zl", "Zp", "Cs")
_OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they turn the rest of a line around

# Threads of this name run programs that are not ours and may never end; the command line does not wait for them.
FOREIGN_THREAD = "t2t_vit foreign program"


class UserError(Exception):
    """A mistake of the user's, told in one sentence: what, where, and what would be right.

    The command line prints the sentence and exits with code 2. Every other exception is ours and keeps its
    traceback.
    """


def printable(text: str) -> str:
    """`text` on one line and harmless to a terminal and a log: what is unprintable as \\n, \\x1b, \\u2028, \\udcff."""
    if text.isprintable():
        return text
    return "".join(
        repr(letter)[1:-1] if letter in _OVERRIDES or category(letter) in _UNPRINTABLE else letter for letter in text
    )
