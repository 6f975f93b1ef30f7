"""Notes on standard error; standard output is for results."""

import sys

from t2t_vit.errors import printable


def tell(text: str) -> None:
    """One line on standard error, at once; names and other text that is not ours cannot move the cursor."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def counted(count: float, one: str, several: str = "") -> str:
    """`1 image`, `1,234 images`, `0.5 hours`; `several` is the plural where it is not `one` with an s."""
    shown = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{shown} {one if count == 1 else several or f'{one}s'}"


def silent(_: str) -> None:
    """For processes other than the first, and for those who have nobody to tell."""
