"""Notes on standard error; standard output is for results."""

import sys

from t2t_vit.errors import printable


def tell(text: str) -> None:
    """One line on standard error, at once; names and other text that is not ours cannot move the cursor."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def silent(_: str) -> None:
    """For processes other than the first, and for those who have nobody to tell."""
