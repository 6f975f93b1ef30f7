"""Predictions -> Parquet, in row groups."""

from contextlib import suppress
from typing import IO, Any

from t2t_vit.errors import UserError
from t2t_vit.inference.run import Result
from t2t_vit.inference.writers import Writer

_ROWS = 10_000  # a group: what is held in memory


def require_pyarrow() -> None:
    """Raise UserError where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError('--format parquet needs pyarrow; install it with: pip install "t2t_vit[parquet]"') from error


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

    def write(self, result: Result) -> None:
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
        with suppress(Exception):  # left open, it would complain when it is collected
            self._parquet.close()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(self._table_of(self._rows, schema=self._schema))
            self._rows.clear()
