"""The images that could not be read -> a file beside the predictions."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from t2t_vit.files import atomic_write
from t2t_vit.inference.item import Result


@contextmanager
def open_rejects(path: str | Path) -> Iterator[Callable[[Result], None]]:
    """What takes the results without predictions: an object a line, `{"path": ..., "reason": ...}`.

    The file appears when the block ends well; where nothing was bad there is none, not even one of an earlier run.

    Raises:
        UserError: the file cannot be written.
    """
    files: list[IO[str]] = []
    with ExitStack() as stack:

        def add(result: Result) -> None:
            if not files:
                files.append(stack.enter_context(atomic_write(Path(path), "w")))
            files[0].write(json.dumps({"path": result.path, "reason": result.reason}) + "\n")

        yield add
    if not files:
        Path(path).unlink(missing_ok=True)
