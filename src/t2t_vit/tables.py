"""Tables of text, for the terminal and for pipes."""

import io
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.table import Table

_ENDLESS = 100_000  # letters of a line, where no terminal asks for fewer


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    title: str = "",
    file: TextIO | None = None,
) -> None:
    """Print a table to standard output, or to `file`.

    On a terminal, cells that do not fit are broken into several lines. Anywhere else a row is one line of plain text,
    whatever its length.

    Args:
        heads: the titles of the columns; none is a table without them.
        rows: as many cells each as there are columns.
        left: numbers of the columns that are aligned to the left, -1 the last one; the others are aligned to the right.
        title: a line above the table.
    """
    output = file or sys.stdout
    if not output.isatty():
        print(*filter(None, [plain(title)]), *table_lines(heads, rows, left=left), sep="\n", file=output)
        return
    from rich.console import Console

    console = Console(file=output)
    if title:
        console.print(plain(title), markup=False, highlight=False, emoji=False)
    console.print(_table(heads, rows, left))


def table_lines(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int] = (0,)) -> list[str]:
    """The lines of a table as plain text, a row a line; the arguments are those of `print_table`."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=_ENDLESS, force_terminal=False, color_system=None).print(_table(heads, rows, left))
    return [line.rstrip() for line in text.getvalue().rstrip("\n").splitlines()]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(plain(cell)) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="dim", show_header=bool(heads))
    count = len(heads) or len(cells[0] if cells else [])
    to_the_left = {number % count for number in left} if count else set()
    for number, head in enumerate(heads or [""] * count):
        table.add_column(Text(plain(head)), justify="left" if number in to_the_left else "right", overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def plain(text: str) -> str:
    """A text as one line, such as a cell is: what cannot be printed is shown as question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
