"""The terminal's lines, and the file they are kept in."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from t2t_vit.errors import UserError


class Console:
    """Lines to standard error and to a log file.

    Args:
        log: the file that every line is appended to, in plain text; None keeps none.
        live: whether a progress bar is shown, which takes the place of the frequent lines on the screen;
            None asks whether standard error is a terminal.
        held: whether lines wait, and no log is opened, until `begin`: a run that is refused says only why, and
            leaves nothing behind.
    """

    def __init__(self, log: Path | None = None, *, live: bool | None = None, held: bool = False) -> None:
        self.live = sys.stderr.isatty() if live is None else live
        self.screen: Callable[[str], None] = to_standard_error
        self._path = log
        self._log: TextIO | None = None
        self._held: list[str] | None = []
        if not held:
            self.begin()

    def begin(self, *, keep: bool = True) -> None:
        """Open the log, unless nothing is to be kept, and say what waited."""
        self._log = _open_log(self._path) if keep and self._path is not None else None
        waiting, self._held = self._held, None
        for text in waiting or ():
            self.line(text)

    def line(self, text: str) -> None:
        """A line for the screen and the log."""
        if self._held is not None:
            self._held.append(text)
            return
        self.screen(text)
        self._keep(text)

    def detail(self, text: str) -> None:
        """A line for the log, and for the screen where no bar tells the same."""
        if not self.live:
            self.screen(text)
        self._keep(text)

    def close(self) -> None:
        """Close the log; the screen still works."""
        if self._log is not None:
            with suppress(OSError):  # a full disk, which has been told
                self._log.close()
            self._log = None

    def _keep(self, text: str) -> None:
        if self._log is None:
            return
        try:
            self._log.write(f"{text}\n")
        except OSError as error:
            self.close()
            self.screen(f"the log is no longer kept ({error.strerror}); training goes on")


def to_standard_error(text: str) -> None:
    """One line on standard error, at once; where nobody can read it any more, the run goes on all the same."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _open_log(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another logs_root_dir") from error
