"""The line on a terminal that counts seconds until a run has something to print. It imports no torch, which is slow.

It is standard error's, of which a process has one, so the line is the module's and whoever prints first ends it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_line: "Progress | None" = None


@contextmanager
def shown_before_a_run(*, is_run: bool = True) -> Iterator[None]:
    """Show the line in the block until `end`; not in a pipe, nor in a process that is not the first."""
    if is_run and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        begin()
    try:
        yield
    finally:
        end()


def begin() -> None:
    """Show the line, unless it is shown."""
    global _line  # noqa: PLW0603
    if _line is None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        # Other output appears above this line; results in a pipe are not affected.
        together = sys.stdout.isatty()
        _line = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=together)
        _line.add_task("starting: program, data, network")
        _line.start()


def end() -> None:
    """Take it away; nothing is left of it."""
    global _line  # noqa: PLW0603
    if _line is not None:
        _line.stop()
        _line = None
