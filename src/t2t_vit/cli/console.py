"""Notes on standard error; standard output is for results."""

import sys

from t2t_vit.files import shown


def tell(text: str) -> None:
    """One line on standard error, at once."""
    print(shown(text), file=sys.stderr, flush=True)


def silent(_: str) -> None:
    """For processes other than the first, and for those who have nobody to tell."""
