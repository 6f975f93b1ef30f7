"""An exported file in a process of its own, which ends at a limit of time, at a limit of memory, or with its owner.

What a stranger's graph does is bounded that way, whatever runs it: it may loop without end, fill the memory or crash
its runtime. Nothing of that reaches this process, which waits in Python and so hears signals.
"""

import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from math import ceil
from pathlib import Path
from typing import IO, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from t2t_vit.errors import ProgramError, printable
from t2t_vit.files import parse_json
from t2t_vit.out_of_memory import says_out_of_memory
from t2t_vit.platforms import kill_group, processor_seconds
from t2t_vit.settings.schema import Config

RUNNER = Path(__file__).with_name("runner.py")
LOADING = "to load"
_LONGEST_LINE = 2**25  # of an answer: metadata with a million class names
_LINES_KEPT = 50  # of a runtime's output
_SECONDS_TO_END = 10
# What a file of little content may take of the default of exported_seconds, and what each byte of it and each
# multiply-add that its weights can ask for adds: a twentieth of what one slow core does.
_LEAST_SECONDS = 5.0
_LOADED_BYTES = 1e6  # a second
_MULTIPLY_ADDS = 2e8  # a second
_PIXELS_OF_A_TOKEN = 256
_LOOK_AGAIN = 0.05  # seconds
# They have all of exported_seconds: programs that the user trusts, whose loading is Python's work, and MindSpore, which
# compiles with the first images.
_UNSHARED = frozenset({"pt2", "aoti", "mindir"})


@dataclass(frozen=True)
class Limits:
    """What an exported file may take.

    Attributes:
        seconds: to load, and to answer a batch; 0: no limit. A small file has less: see `of_work`.
        memory: GB (10^9 bytes) of data that its process may hold; 0: no limit. Kept on Linux alone.
    """

    seconds: float = Config.exported_seconds
    memory: float = Config.exported_memory

    @classmethod
    def of(cls, config: Config) -> Self:
        """As the configuration says."""
        return cls(config.exported_seconds, config.exported_memory)

    def of_work(self, seconds: float) -> float:
        """Of `seconds`, what a file has whose size gives it so many seconds of work at the most.

        A graph of a kilobyte can ask for any amount of work, and an honest one asks for little.
        """
        return min(self.seconds, (_LEAST_SECONDS + seconds) * max(1.0, self.seconds / Config.exported_seconds))


DEFAULT_LIMITS = Limits()


class ForeignProcess:
    """A file, loaded and waiting for images; the process ends with this object.

    Several threads may ask; they are answered in turn.

    Args:
        kind: a row of the runner's table.
        runtime: the name of what runs it, for sentences.
        path: the file.
        limits: what it may take.
        python: the interpreter of an environment that has the runtime.
        threads: that compute, where the runtime can be told.
        bf16: compute in bfloat16, where the runtime can be told.

    Attributes:
        version: of the runtime.
        metadata: what the file says of itself, as the runtime reads it; None where it does not.

    Raises:
        ProgramError: the file cannot be loaded, or not within the limits. The sentence continues from the file's name.
    """

    def __init__(
        self,
        kind: str,
        runtime: str,
        path: str | Path,
        limits: Limits = DEFAULT_LIMITS,
        *,
        python: str = sys.executable,
        threads: int = 1,
        bf16: bool = False,
    ) -> None:
        self._kind, self._runtime, self._limits, self._late = kind, runtime, limits, 0.0
        weights = [Path(path).with_suffix(".bin")] if kind == "openvino" else []
        self._size = sum(file.stat().st_size for file in (Path(path), *weights))
        self._lock = threading.Lock()
        settings = {"memory": ceil(limits.memory * 1e9), "threads": threads, "bf16": bf16}
        self._process = subprocess.Popen(
            [python, str(RUNNER), kind, str(path), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not reach it, and its children end with it
        )
        self._printed: list[bytes] = []
        self._reader = threading.Thread(target=_collect, args=(self._process.stderr, self._printed), daemon=True)
        self._reader.start()
        self._end = weakref.finalize(self, _stop, self._process, self._reader)
        with self._within(limits.seconds):  # it imports the runtime, which has nothing to do with the file
            self._answer(LOADING)
        with self._within(self._allowed(self._size / _LOADED_BYTES)):
            head = self._answer(LOADING)
        self.version, self.metadata = str(head["version"]), head["metadata"]

    def run(self, images: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Images (B, C, H, W) of the file's type -> its answer: numbers of any type, of the given shape.

        Raises:
            ProgramError: there is no answer within the limits, or one of another shape.
        """
        what = f"for {len(images)} image{'s' if len(images) > 1 else ''}"
        head = {"shape": images.shape, "type": images.dtype.name, "bytes": images.nbytes, "answer": shape}
        tokens = images.size / images.shape[1] / _PIXELS_OF_A_TOKEN
        with self._lock, self._within(self._allowed(self._size * tokens / _MULTIPLY_ADDS)):
            if not self._end.alive and not self._late:
                raise ProgramError(
                    f"was stopped in {self._runtime} by an earlier failure or an interruption; load the file again"
                )
            try:
                requests = cast(IO[bytes], self._process.stdin)
                requests.write(json.dumps(head).encode() + b"\n")
                requests.write(np.ascontiguousarray(images).data)
                requests.flush()
            except (OSError, ValueError) as error:  # ValueError: it was closed before
                raise self._ended(what) from error
            answer = self._answer(what)
            if tuple(answer["shape"]) != tuple(shape):
                self.close()
                raise ProgramError(
                    f"answers {len(images)} images in the shape {tuple(answer['shape'])}, not {tuple(shape)}"
                )
            kind = np.dtype(answer["type"])
            content = bytearray(int(np.prod(shape)) * kind.itemsize)
            if self._answers.readinto(content) < len(content):
                raise self._ended(what)
        return np.frombuffer(content, kind).reshape(tuple(shape))

    def close(self) -> None:
        """End the process."""
        self._end()

    @property
    def _answers(self) -> BufferedReader:
        return cast(BufferedReader, self._process.stdout)

    def _allowed(self, seconds: float) -> float:
        """For so much work."""
        return self._limits.seconds if self._kind in _UNSHARED else self._limits.of_work(seconds)

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Around a question; whatever ends it early ends the process, whose answer would be taken for the next one.

        The process may compute for so many seconds, if they are more than 0; what a busy machine does meanwhile does
        not count.
        """
        answered = threading.Event()
        watch = threading.Thread(target=self._kill_late, args=(seconds, answered), daemon=True) if seconds else None
        if watch is not None:
            watch.start()
        try:
            yield
        except BaseException:
            self.close()
            raise
        finally:
            answered.set()
            if watch is not None:
                watch.join()  # it would keep this object, and so the process, alive

    def _kill_late(self, seconds: float, answered: threading.Event) -> None:
        begun, before = time.monotonic(), processor_seconds(self._process.pid)
        left = seconds
        while not answered.wait(max(_LOOK_AGAIN, left)):
            passed, now = time.monotonic() - begun, processor_seconds(self._process.pid)
            computed = passed if before is None or now is None else min(passed, now - before)
            left = min(seconds - computed, self._limits.seconds - passed)
            if left <= 0:
                self._late = passed if passed >= self._limits.seconds else seconds
                _kill(self._process)
                return

    def _answer(self, what: str) -> dict[str, Any]:
        """The next message except for its numbers."""
        try:
            line = self._answers.readline(_LONGEST_LINE)
            answer = parse_json(line) if line.endswith(b"\n") else None
        except ValueError:
            answer = None
        if answer is None:
            raise self._ended(what)
        if "error" in answer:
            raise ProgramError(self._failure(what, str(answer["error"])))
        return cast(dict[str, Any], answer)

    def _ended(self, what: str) -> ProgramError:
        """Why there is no answer."""
        try:
            code = self._process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return ProgramError(f"makes {self._runtime} give an answer that cannot be read")
        if self._late:
            most = self._limits.seconds
            taken = f"{min(self._late, most):.3g} s {what}"
            share = "" if self._late >= most else f", the share of exported_seconds that its size gives ({most:g})"
            return ProgramError(f"takes longer than {taken}{share}; if you trust the file, raise exported_seconds")
        self._reader.join(timeout=_SECONDS_TO_END)  # last words may still be in the pipe, which a child may keep open
        last = b"".join(self._printed).decode(errors="replace").strip()
        if says_out_of_memory(last):
            return ProgramError(self._failure(what, last))
        reason = f"crashes (signal {-code})" if code < 0 else f"ends with code {code}"
        said = f": {_short(last.splitlines()[-1])}" if last else ""
        return ProgramError(f"{self._runtime} {reason} {what}{said}")

    def _failure(self, what: str, reason: str) -> str:
        if says_out_of_memory(reason):
            if not self._limits.memory:
                return f"needs more memory {what} than this machine has; lower batch_size"
            most = f"the {self._limits.memory:g} GB of exported_memory"
            return f"needs more memory {what} than {most}; if you trust the file, raise that, or lower batch_size"
        if what == LOADING:
            damage = "it may be truncated, damaged, or of another version"
            return f"cannot be loaded by {self._runtime} ({_short(reason)}); {damage}"
        return f"holds a program that fails in {self._runtime} ({_short(reason)})"


def _short(text: str) -> str:
    """The first line of an error that says something, printable."""
    first = next((line.strip() for line in text.splitlines() if line.strip(" -")), "")
    return printable(first)[:200]


def _collect(pipe: IO[bytes], printed: list[bytes]) -> None:
    """Keep the last of what the process prints, so that it never waits for a reader."""
    with pipe:
        while line := pipe.readline(10_000):
            printed.append(line)
            del printed[:-_LINES_KEPT]


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """And what it started, which would keep its pipes open."""
    if process.returncode is None:
        kill_group(process.pid)
    process.kill()


def _stop(process: "subprocess.Popen[bytes]", reader: threading.Thread) -> None:
    _kill(process)
    process.wait()
    reader.join()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # bytes that were not sent yet
                pipe.close()
