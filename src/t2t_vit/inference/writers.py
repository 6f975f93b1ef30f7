"""Results -> a file of predictions and one of the images that could not be read; each appears whole or not at all."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write, check_folder, remove_leftovers
from t2t_vit.inference.item import ImageResult, Prediction
from t2t_vit.installing import install_command
from t2t_vit.platforms import place_of

FORMATS = ("json", "jsonl", "csv", "parquet")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of formulas, from OWASP's list
_ROWS = 10_000  # rows of a row group in Parquet, kept in memory


class Writer(ABC):
    """Takes results that have predictions; `top_k` 0 writes the best class alone, in its short form."""

    def __init__(self, file: IO[bytes], top_k: int) -> None:
        self._file = file
        self._top_k = top_k

    @abstractmethod
    def write(self, result: ImageResult) -> None:
        """One image more."""

    @abstractmethod
    def finish(self) -> None:
        """There are no more."""

    def give_up(self) -> None:  # noqa: B027  # most have nothing to let go
        """The file will be thrown away."""


class JsonObject(Writer):
    """`{PATH: N}`, or with a top k `{PATH: [{"class": N, "name": ..., "probability": ...}, ...]}`, a line an image.

    Characters beyond ASCII are escaped: paths need not be valid Unicode, and so they come back unchanged. A path that
    comes again is left out, since an object has a key once.
    """

    def __init__(self, file: IO[bytes], top_k: int, *, unique: bool) -> None:
        super().__init__(file, top_k)
        self._seen: set[bytes] | None = None if unique else set()
        self._empty = True

    def write(self, result: ImageResult) -> None:
        if self._seen is not None:
            digest = blake2b(result.path.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if digest in self._seen:
                return
            self._seen.add(digest)
        value = [as_dict(each) for each in result.predictions] if self._top_k else result.predictions[0].index
        self._file.write(f"{'{' if self._empty else ','}\n {json.dumps(result.path)}: {json.dumps(value)}".encode())
        self._empty = False

    def finish(self) -> None:
        self._file.write(b"{}\n" if self._empty else b"\n}\n")


class JsonLines(Writer):
    """An object a line: path, class, name and probability of the best, with a top k all of them as `top`."""

    def write(self, result: ImageResult) -> None:
        row: dict[str, Any] = {"path": result.path, **as_dict(result.predictions[0])}
        if self._top_k:
            row["top"] = [as_dict(each) for each in result.predictions]
        self._file.write(json.dumps(row).encode() + b"\n")

    def finish(self) -> None: ...


class Csv(Writer):
    """path, class, name, probability; with a top k a row for each of them, numbered by `rank` from 1.

    UTF-8; a path that is none keeps the bytes it has in the file system. Texts are always quoted. With
    `for_spreadsheets` those that a spreadsheet would take for a formula begin with an apostrophe more.
    """

    def __init__(self, file: IO[bytes], top_k: int, *, for_spreadsheets: bool = False) -> None:
        super().__init__(file, top_k)
        self._for_spreadsheets = for_spreadsheets
        self._row("path", *(["rank"] if top_k else []), "class", "name", "probability")

    def write(self, result: ImageResult) -> None:
        for rank, each in enumerate(result.predictions, start=1):
            ranks = [rank] if self._top_k else []
            self._row(result.path, *ranks, each.index, each.name or "", each.probability)

    def finish(self) -> None: ...

    def _row(self, *values: object) -> None:
        if self._for_spreadsheets:
            values = tuple(
                f"'{each}" if isinstance(each, str) and each.startswith(_FORMULA) else each for each in values
            )
        text = io.StringIO(newline="")
        csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerow(values)
        self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def as_dict(prediction: Prediction) -> dict[str, Any]:
    """The prediction as it stands in JSON."""
    return {"class": prediction.index, "name": prediction.name, "probability": prediction.probability}


def require_pyarrow() -> None:
    """Raise UserError where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        command = install_command("parquet")
        raise UserError(f"--format parquet needs pyarrow; install it with: {command}") from error


class Parquet(Writer):
    """path, path_bytes, rank (with a top k), class, name, probability; a row for each prediction.

    `path` is text, in which bytes that are no UTF-8 stand as \\xff; `path_bytes` is the path as the file system has it.
    """

    def __init__(self, file: IO[bytes], top_k: int) -> None:
        import pyarrow
        import pyarrow.parquet

        super().__init__(file, top_k)
        ranks = {"rank": pyarrow.int32()} if top_k else {}
        columns = {
            "path": pyarrow.string(),
            "path_bytes": pyarrow.binary(),
            **ranks,
            "class": pyarrow.int32(),
            "name": pyarrow.string(),
            "probability": pyarrow.float64(),
        }
        self._schema = pyarrow.schema(columns.items())
        self._parquet = pyarrow.parquet.ParquetWriter(file, self._schema)
        self._table_of = pyarrow.Table.from_pylist
        self._rows: list[dict[str, Any]] = []

    def write(self, result: ImageResult) -> None:
        exact = result.path.encode("utf-8", "surrogateescape")
        text = exact.decode("utf-8", "backslashreplace")
        for rank, each in enumerate(result.predictions, start=1):
            row = {"path": text, "path_bytes": exact, "rank": rank}
            self._rows.append(row | {"class": each.index, "name": each.name, "probability": each.probability})
        if len(self._rows) >= _ROWS:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._parquet.close()

    def give_up(self) -> None:
        with suppress(Exception):  # if left open, it would warn when it is collected
            self._parquet.close()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(self._table_of(self._rows, schema=self._schema))
            self._rows.clear()


def format_of(output: str, asked: str | None) -> str:
    """The format that was asked for, or else the one that the output's ending names, or else "json".

    Raises:
        UserError: there is no such format, or what it needs is not installed.
    """
    if asked is not None and asked not in FORMATS:
        raise UserError(f"--format '{asked}': is not one of {', '.join(FORMATS)}")
    ending = Path(output).suffix[1:].lower()
    chosen = asked or (ending if ending in FORMATS else "json")
    if chosen == "parquet":
        require_pyarrow()
    return chosen


@contextmanager
def open_writer(
    path: str | Path, chosen: str, *, top_k: int = 0, unique: bool = True, for_spreadsheets: bool = False
) -> Iterator[Writer]:
    """A writer of the format `chosen`; `path` appears when the block ends well.

    Args:
        top_k: 0, or how many classes an image has.
        unique: whether every path comes once; otherwise JSON's object remembers them.
        for_spreadsheets: of CSV, whether no cell may be a formula.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(Path(path)) as file:
        writer = _writer(file, chosen, top_k, unique, for_spreadsheets)
        try:
            yield writer
        except BaseException:
            writer.give_up()
            raise
        writer.finish()


def _writer(file: IO[bytes], chosen: str, top_k: int, unique: bool, for_spreadsheets: bool) -> Writer:
    if chosen == "json":
        return JsonObject(file, top_k, unique=unique)
    if chosen == "parquet":
        return Parquet(file, top_k)
    return JsonLines(file, top_k) if chosen == "jsonl" else Csv(file, top_k, for_spreadsheets=for_spreadsheets)


def check_output(path: str | Path) -> None:
    """Refuse, before hours of work, a place that no file can be written to.

    Raises:
        UserError: it is empty, a folder or a device, or lies where no file can be made.
    """
    if not str(path):
        raise UserError("output is empty; give a file name")
    if Path(path).is_dir():
        raise UserError(f"output '{path}': is a folder; give a file in it")
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"output '{path}': is not a regular file and would be replaced by one; choose another")
    check_folder(Path(path).parent, f"output '{path}':")


def check_apart(path: str | Path, output: str | Path, what: str, of: str = "the output") -> None:
    """Refuse a second file to write that is the output, perhaps with its name in another case.

    Raises:
        UserError: `what` is that file.
    """
    if place_of(path) == place_of(output):
        raise UserError(f"{what}: is also {of}; choose another file")


@contextmanager
def open_rejects(path: str | Path) -> Iterator[Callable[[ImageResult], None]]:
    """What takes the results without predictions: an object a line, `{"path": ..., "reason": ...}`.

    The file appears when the block ends well; where nothing was bad there is none, not even one from an earlier run.

    Raises:
        UserError: the file cannot be written.
    """
    files: list[IO[str]] = []
    with ExitStack() as stack:

        def add(result: ImageResult) -> None:
            if not files:
                files.append(stack.enter_context(atomic_write(Path(path), "w")))
            files[0].write(json.dumps({"path": result.path, "reason": result.reason}) + "\n")

        yield add
    if not files:
        Path(path).unlink(missing_ok=True)
        remove_leftovers(Path(path).parent, Path(path).name)
