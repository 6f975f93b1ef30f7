"""The errors that stand for a mistake of the user's, and how text that is not ours is printed."""

from unicodedata import category

# Control characters, separators of lines, halves of characters (bytes of a name that is no text).
_UNPRINTABLE = ("Cc", "Zl", "Zp", "Cs")
_OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they turn the rest of a line around


class UserError(Exception):
    """A user's mistake, in one sentence: what is wrong, where, and what would be right.

    The command line prints the sentence and exits with code 2. Every other exception is a bug and keeps its
    traceback. Code that can continue after some mistakes catches the class for them:

        UserError            a request that cannot be met: an option, a file, a device, a folder, ...
          OutputError        a file or a folder cannot be written: no permission, a full disk, a link in its place
          CheckpointError    a file holds no complete checkpoint of a run to continue from
          DataError          the images of a data set are missing, unreadable, or in an unknown layout
          ProgramError       an exported file fails in its runtime, exceeds its limits, or answers with no logits

    A run catches OutputError and trains on without that checkpoint, row or report. The search for the newest or the
    best checkpoint catches CheckpointError and takes another one. An export catches DataError if nobody named images,
    and ProgramError, which means that its file disagrees with the network (exit code 1).
    """


class OutputError(UserError):
    """A file or a folder cannot be written."""


class CheckpointError(UserError):
    """A file holds no whole checkpoint of a run to continue from."""


class DataError(UserError):
    """The images of a data set are missing, cannot be read, or are laid out in no way that is known."""


class ProgramError(UserError):
    """An exported file fails in its runtime, exceeds its limits, or answers with something else than logits."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, else the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(error: Exception, most: int = 200) -> str:
    """An error's message as one line of up to `most` letters, else the name of its class."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def printable(text: str) -> str:
    """`text` on one line and harmless to a terminal and a log: what is unprintable as \\n, \\x1b, \\u2028, \\udcff."""
    if text.isprintable():
        return text
    return "".join(
        repr(letter)[1:-1] if letter in _OVERRIDES or category(letter) in _UNPRINTABLE else letter for letter in text
    )
