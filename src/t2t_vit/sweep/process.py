"""One run of a trial: a `t2t-vit train` process in folders of its own, followed by the history that it writes."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from t2t_vit.errors import OutputError, UserError
from t2t_vit.files import parse_json
from t2t_vit.platforms import AS_A_GROUP_OF_ITS_OWN, kill_at_once, signal_name
from t2t_vit.report.run_files import HISTORY_LINES, RECORD, ROOT_KEYS, RunFiles, read_run

FOLDERS = ("checkpoints", "best_checkpoints", "summary", "logs")  # of a run, by `ROOT_KEYS`


def training_program() -> str:
    """What Python runs as `t2t-vit`, with this process's path: the current folder is not looked into for modules."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return f"import sys; sys.path[:] = {path!r}; from t2t_vit.cli.main import main; sys.exit(main())"


def _started(words: Sequence[str], log: IO[bytes], held: int, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The process, out of the terminal's reach: Ctrl-C reaches this one alone, which then asks it to stop, once."""
    line = [sys.executable, "-c", training_program(), *words]
    nothing = subprocess.DEVNULL
    if sys.platform == "win32":
        group = AS_A_GROUP_OF_ITS_OWN
        return subprocess.Popen(line, stdin=nothing, stdout=log, stderr=log, env=variables, creationflags=group)
    else:  # noqa: RET505  # mypy looks at one of both
        return subprocess.Popen(
            line, stdin=nothing, stdout=log, stderr=log, env=variables, start_new_session=True, pass_fds=(held,)
        )


def _number(value: object) -> float | None:
    """A number of a history, which a crash may have cut short."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None


class Evaluated(NamedTuple):
    """What an evaluation after an epoch, from 1, came to, and the updates that were made until then."""

    epoch: int
    value: float
    step: float


class SeedRun:
    """The run of one trial with one seed, in `folder`; it continues what it finds there."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.folder = folder
        places = [f"--{key}={folder / name}" for key, name in zip(ROOT_KEYS, FOLDERS, strict=True)]
        self.words = ["train", *words, *places, "--resume=auto"]
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "output.log"
        self._node, self._read = -1, 0

    @property
    def logs(self) -> Path | None:
        """The run's logs folder, once the run has begun."""
        return next((path.parent for path in sorted(self.folder.glob(f"logs/*/{RECORD}"))), None)

    def start(self, held: int, environment: Mapping[str, str]) -> None:
        """Start or continue it.

        Args:
            held: a descriptor that the process keeps open as long as it lives.
            environment: variables besides those of this process.

        Raises:
            OutputError: its output cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            log: IO[bytes] = self._log.open("ab")
        except OSError as error:
            raise OutputError(f"{self._log}: cannot be written ({error.strerror}); give another --folder") from error
        self._node, self._read = -1, 0
        with log:
            self._process = _started(self.words, log, held, {**os.environ, **environment})

    @property
    def is_alive(self) -> bool:
        """Whether a process of ours works on it."""
        return self._process is not None and self._process.poll() is None

    def code(self) -> int | None:
        """The exit code, negative after a signal; None where no process of ours has come to its end."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """Ask it to stop after its present step, with a checkpoint."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Until it has stopped."""
        if self._process is not None:
            self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.poll() is None:
            kill_at_once(self._process.pid)
            self._process.wait()

    def new_values(self, metric: str, *, loss: bool) -> Iterator[Evaluated]:
        """Each evaluation that was not given before, with the better of raw and averaged weights."""
        for row in self._new_rows():
            epoch, step = _number(row.get("epoch")), _number(row.get("step"))
            values = [_number(row.get(f"{weights}_{metric}")) for weights in ("val", "ema")]
            known = [value for value in values if value is not None]
            if row.get("kind") == "epoch" and epoch is not None and step is not None and known:
                yield Evaluated(round(epoch), min(known) if loss else max(known), step)

    def _new_rows(self) -> Iterator[dict[str, object]]:
        logs = self.logs
        if logs is None:
            return
        try:
            with (logs / HISTORY_LINES).open("rb") as file:
                node = os.fstat(file.fileno()).st_ino
                if node != self._node:  # a run that is continued writes its history again
                    self._node, self._read = node, 0
                file.seek(self._read)
                content = file.read()
        except OSError:
            return
        whole = content.rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row

    def result(self, metric: str) -> float:
        """What the finished run reports.

        Raises:
            LookupError: it has no evaluation, or not this number in it.
        """
        found = self._files().evaluation
        return float(found["scores"][found["weights"]][metric])

    @property
    def seconds(self) -> float:
        """Of the epochs so far, evaluations included."""
        return sum(value for _, value in self._files().points("seconds", "epoch"))

    def _files(self) -> RunFiles:
        logs = self.logs
        return RunFiles(self.folder, [], {}, {}) if logs is None else read_run(logs)

    @property
    def is_finished(self) -> bool:
        """Whether it wrote that it came to its end, report and all; how its process ended does not matter."""
        return bool(self._record.get("finished"))

    @property
    def last_step(self) -> float:
        """The step that it ends with, if nothing ends it before; infinite where it did not say."""
        found = _number(self._record.get("last_step"))
        return math.inf if found is None else found

    @property
    def _record(self) -> dict[str, Any]:
        try:
            return self._files().record
        except UserError:
            return {}

    def last_words(self) -> str:
        """The last line that it printed, without the program's name."""
        code = self.code()
        if code is not None and code < 0:
            return f"was killed by {signal_name(-code)}"
        if code == 0:  # then what it printed last is how to use what it left
            return "ended, and its logs folder does not say how"
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1].removeprefix("t2t-vit: ") if lines else "ended without a word"
