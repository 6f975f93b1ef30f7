"""Notes on standard error; standard output is for results."""

import sys


def tell(text: str) -> None:
    """One line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)
