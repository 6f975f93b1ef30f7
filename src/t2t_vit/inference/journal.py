"""What a run has finished so far, kept so that a run that was killed is continued and not begun again."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import file_digest, sha256
from io import FileIO
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.files import failing_on_a_full_disk, parse_json, remove_leftovers
from t2t_vit.inference.item import ImageResult, Prediction, Stamp
from t2t_vit.inference.pipeline import Answered
from t2t_vit.inference.predictor import Predictor
from t2t_vit.platforms import RENAMES_OPEN_FILES, NoLocksError, lock
from t2t_vit.weights.location import find_file

Fingerprint = Mapping[str, Any]
_BLOCK = 2**16
_TURNS = 20  # to open a journal that nobody removes; one or two do
# Every journal begins with this key; any other file is not ours and is not opened for writing.
_HEADER, _VERSION = "t2t_vit infer", 2
_MARKS = (f'{{"{_HEADER}": '.encode(), b'{"journal version": ')  # the second one of version 1


class PredictionJournal:
    """`OUTPUT.journal`: a line that says what was asked, then one a batch.

    Each line is JSON and written whole; the torn end that a killed run leaves is cut off. The first batch is held back
    until there is a second: a short run leaves no journal, not even for a moment. One run at a time has it.

    Args:
        output: the file that the run is to write.
        fingerprint: makes what the answers depend on besides the images; called when it is needed.
        prediction: (index, probability) -> a prediction with its name.
        beside: other files that the run writes.
        resume: continue from what is there; otherwise what is there goes.
        note: called with a sentence about what was found.

    Raises:
        UserError: another run writes this output, the run to be continued was asked for something else, or the
            journal's place is taken by another program's file or a link.
    """

    def __init__(
        self,
        output: str,
        fingerprint: Callable[[], Fingerprint],
        prediction: Callable[[int, float], Prediction],
        *,
        beside: Sequence[str] = (),
        resume: bool,
        note: Callable[[str], None],
    ) -> None:
        self.path = Path(f"{output}.journal")
        self._output = output
        self._fingerprint = fingerprint
        self._prediction = prediction
        self._file: FileIO | None = None
        self._held: Sequence[Answered] | None = None
        self._known: _Known | None = None
        if self.path.is_symlink() or self.path.exists():
            self._check_own()
            self._file = self._opened()
            for written in map(Path, (output, *beside)):
                remove_leftovers(written.parent, written.name)
        if self._file is not None and resume:
            try:
                self._continue(self._file, note)
            except BaseException:
                self.close()
                raise
        elif self._file is not None:
            note(f"{self.path}: the results of an interrupted run are discarded; --resume would have continued it")
            _empty(self._file)
        elif resume:
            note(f"{self.path}: does not exist, so there is nothing to continue; starting from the beginning")

    def recall(self, path: str, stamp: Stamp | None) -> ImageResult | None:
        """The result of an image that has not changed since; None of an unknown one, or of one that was not there."""
        return self._known.find(path, stamp) if self._known is not None else None

    def record(self, batch: Sequence[Answered]) -> None:
        """Keep the new results of a batch."""
        new = [answered for answered in batch if not answered.recalled]
        if self._known is None and self._held is None:
            self._held = new
            return
        for each in (self._held or [], new):
            if each:
                self._write([_entry(answered) for answered in each])
        self._held = []

    def finish(self) -> None:
        """The output is there: the journal goes, while it is still locked; on Windows, as soon as it is closed."""
        self._known = None  # which reads it
        has_it = self._file is not None
        if has_it:
            with suppress(PermissionError):
                self.path.unlink(missing_ok=True)
                has_it = False
        self.close()
        if has_it:
            with suppress(PermissionError):  # another run has it already
                self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave it for another run; it stays."""
        if self._file is not None:
            self._file.close()
        self._file = None

    @property
    def can_continue(self) -> bool:
        """Whether anything is kept."""
        return self._file is not None and self._file.tell() > 0

    def _check_own(self) -> None:
        """Refuse a file that was not written by this class: it would be emptied, and deleted in the end."""
        instead = "choose another output"
        if self.path.is_symlink() or not self.path.is_file():
            raise UserError(f"{self.path}: is a link or not a file, but infer keeps its journal there; {instead}")
        try:
            with self.path.open("rb") as file:
                begin = file.read(max(map(len, _MARKS)))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); {instead}") from error
        if not any(begin.startswith(mark) or mark.startswith(begin) for mark in _MARKS):
            raise UserError(f"{self.path}: is not a journal of infer, but infer keeps its journal there; {instead}")

    def _header(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(json.dumps({_HEADER: _VERSION, **self._fingerprint()}))
        return content

    def _continue(self, file: FileIO, note: Callable[[str], None]) -> None:
        _cut_torn_end(file)
        with self.path.open("rb") as content:
            header = _parsed(content.readline())
        if header is None:
            note(f"{self.path}: is empty; starting from the beginning")
            _empty(file)
            return
        now = self._header()
        before = header if isinstance(header, dict) else {}
        if before.get(_HEADER) != _VERSION:
            raise UserError(
                f"{self.path}: was written by another version of t2t_vit; leave out --resume to start again"
            )
        changed = [key for key in {**now, **before} if now.get(key) != before.get(key)]
        if changed:
            raise UserError(
                f"{self.path}: the interrupted run had another {' and '.join(changed)}; use the same one, or leave "
                "out --resume to start again"
            )
        self._known = _Known(self.path, self._prediction)
        file.seek(0, os.SEEK_END)

    def _write(self, line: object) -> None:
        if self._file is None:
            self._file = self._opened()
            _empty(self._file)
        head = _line(self._header()) if self._file.tell() == 0 else b""
        kept = "what it has so far stays, and --resume continues from there"
        with failing_on_a_full_disk(self.path, self.path, kept=kept):
            _write_whole(self._file, head + _line(line))

    def _opened(self) -> FileIO:
        turn = 0
        while True:
            turn += 1
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = self.path.open("a+b", buffering=0)  # what a full disk refused is not tried again at the end
            except OSError as error:
                raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
            try:
                lock(file.fileno())
            except BlockingIOError as error:
                file.close()
                raise UserError(
                    f"output '{self._output}': another run is writing it; wait, or choose another"
                ) from error
            except (NoLocksError, OSError):
                return file
            # A run that ended a moment ago may have removed it before its lock was given up; not on Windows, where an
            # open file stays. Where the two never look the same, the file system is a strange one.
            if not RENAMES_OPEN_FILES or turn == _TURNS:
                return file
            with suppress(OSError):
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    return file
            file.close()


def recorded_fingerprint(output: str) -> Fingerprint:
    """The fingerprint in the journal of `output`, empty where there is none."""
    try:
        with Path(f"{output}.journal").open("rb") as file:
            header = _parsed(file.readline())
    except OSError:
        return {}
    return {key: value for key, value in header.items() if key != _HEADER} if isinstance(header, dict) else {}


class _Known:
    """The results of a journal. Asked in the order in which they were written, it holds one batch at a time; at the
    first question out of that order it reads the rest into memory."""

    def __init__(self, path: Path, prediction: Callable[[int, float], Prediction]) -> None:
        self._prediction = prediction
        self._entries = _entries(path)
        self._next = next(self._entries, None)
        self._rest: dict[str, Any] | None = None

    def find(self, path: str, stamp: Stamp | None) -> ImageResult | None:
        if self._rest is None and self._next is not None and self._next[0] != path:
            self._rest = {self._next[0]: self._next} | {entry[0]: entry for entry in self._entries}
        if self._rest is not None:
            entry = self._rest.get(path)
        else:
            entry, self._next = self._next, next(self._entries, None)
        if entry is None or stamp is None or entry[1] != list(stamp):
            return None
        if isinstance(entry[2], str):
            return ImageResult(path, reason=entry[2])
        try:
            return ImageResult(path, tuple(self._prediction(index, probability) for index, probability in entry[2]))
        except IndexError:  # an unknown class
            return None


def _entries(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        left = path.stat().st_size - len(file.readline())  # not the lines that this run appends
        while left > 0:
            line = file.readline()
            left -= len(line)
            rows = _parsed(line)
            yield from (row for row in rows if _is_row(row)) if isinstance(rows, list) else ()


def _is_row(row: Any) -> bool:
    """[path, stamp, reason or [[index, probability], ...]]; an image whose row is damaged is computed again."""
    if not (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str)):
        return False
    answer = row[2]
    return isinstance(answer, str) or (isinstance(answer, list) and bool(answer) and all(map(_is_answer, answer)))


def _is_answer(pair: Any) -> bool:
    if not (isinstance(pair, list) and len(pair) == 2):
        return False
    index, probability = pair
    return type(index) is int and index >= 0 and type(probability) is float and 0 <= probability <= 1


def _entry(answered: Answered) -> list[Any]:
    result = answered.result
    numbers = [(prediction.index, prediction.probability) for prediction in result.predictions]
    return [result.path, answered.stamp, result.reason or numbers]


def _line(content: object) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _parsed(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _write_whole(file: FileIO, content: bytes) -> None:
    """A file without a buffer takes a part of what does not fit on the disk, and only then refuses."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _empty(file: FileIO) -> None:
    file.truncate(0)
    file.seek(0)


def _cut_torn_end(file: FileIO) -> None:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    file.truncate(end)


def fingerprint(path: str, predictor: Predictor, top_k: int, asked: Mapping[str, object]) -> dict[str, Any]:
    """What the answers depend on besides the images: runs with the same one may share their results.

    Primitives, by the word that names them in a message.

    Args:
        path: what the predictor was loaded from; its content counts, not its name.
        asked: what else the user asked for that changes the answers.
    """
    return {
        "checkpoint": _content_hash(path),
        "preprocessing": predictor.preprocessing.to_dict(),
        "list of classes": predictor.classes,
        "top_k": top_k,
        **asked,
    }


def _content_hash(path: str) -> str:
    whole = sha256()
    for file in _files(Path(path)):
        with file.open("rb") as content:
            whole.update(file_digest(content, "sha256").digest())
    return whole.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.suffix == ".xml":  # OpenVINO's weights are in a file beside the graph
        return [file for file in (path, path.with_suffix(".bin")) if file.is_file()]
    return [find_file(path)]
