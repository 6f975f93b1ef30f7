"""One run of `infer`: results to standard output and the files, notes to standard error, and what keeps it safe."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any

from t2t_vit.cli.console import printable, tell
from t2t_vit.errors import UserError
from t2t_vit.inference.item import Item
from t2t_vit.inference.journal import Journal
from t2t_vit.inference.predictor import BATCH_SIZE, Predictor
from t2t_vit.inference.readers import Readers
from t2t_vit.inference.rejects import open_rejects
from t2t_vit.inference.run import Result, answer_batches
from t2t_vit.inference.writers import check_output, open_writer

MOST_NAMED = 20  # bad images on standard error; the file of errors has all


@dataclass(frozen=True)
class InferenceJob:
    """What is asked for beside the images and the network.

    top_k: 0 for the contract's short form. unique: no path comes twice. shard: (i, n), the i-th of every n items,
    from 1. fingerprint: what the answers depend on, asked for only where a journal is written.
    """

    output: str
    format: str = "json"
    top_k: int = 0
    errors: str = ""
    resume: bool = False
    unique: bool = True
    shard: tuple[int, int] = (1, 1)
    batch_size: int = BATCH_SIZE
    workers: int = 0
    fingerprint: Callable[[], Mapping[str, Any]] = dict

    @property
    def rejects(self) -> str:
        """The file of what could not be read."""
        return self.errors or f"{self.output}.errors.jsonl"

    def check(self) -> None:
        """Refuse, before the work, files that cannot be written.

        Raises:
            UserError: one of them.
        """
        check_output(self.output)
        check_output(self.rejects)
        if self.rejects == self.output:
            raise UserError(f"--errors {self.errors}: is the output, too; name another file")


@dataclass
class Tally:
    """What a run came to."""

    good: int = 0
    bad: int = 0
    recalled: int = 0
    start: float = field(default_factory=perf_counter)

    @property
    def rate(self) -> str:
        """Images a second of those that were predicted in this run."""
        return f"{(self.good + self.bad - self.recalled) / max(perf_counter() - self.start, 1e-9):,.1f} images/s"


def predict(
    predictor: Predictor, items: Iterable[Item], job: InferenceJob, seen: Callable[[Result], None] = lambda _: None
) -> Tally:
    """Print a line for each image, name the bad ones, write the output; `seen` gets every result.

    Raises:
        UserError: a file cannot be written, or a run cannot be continued.
    """
    first, count = job.shard
    chosen = islice(items, first - 1, None, count)
    journal = Journal(
        job.output, job.fingerprint, predictor.prediction, beside=[job.rejects], resume=job.resume, note=tell
    )
    tally = Tally()
    try:
        with closing(journal), _told_how_to_continue(journal, tally):
            _answer(predictor, chosen, job, journal, tally, seen)
            journal.finish()
    except _PrintError as error:
        raise error.reason from None
    tell(_summary(tally, job))
    return tally


def line_of(result: Result, top_k: int) -> str:
    """`PATH (class: N) NAME`, with a top k of each its name and probability; one line, whatever the names hold."""
    best = result.predictions[0]
    line = f"{result.path} (class: {best.index})"
    if top_k:
        line += " " + ", ".join(f"{each.name or each.index} {each.probability:.4f}" for each in result.predictions)
    elif best.name:
        line += f" {best.name}"
    return printable(line)


def _answer(
    predictor: Predictor,
    items: Iterable[Item],
    job: InferenceJob,
    journal: Journal,
    tally: Tally,
    seen: Callable[[Result], None],
) -> None:
    with ExitStack() as stack:
        readers = stack.enter_context(closing(Readers(predictor.preprocessing, job.workers)))
        writer = stack.enter_context(open_writer(job.output, job.format, top_k=job.top_k, unique=job.unique))
        reject = stack.enter_context(open_rejects(job.rejects))
        advance = stack.enter_context(_progress(tally))
        top_k, size = max(1, job.top_k), job.batch_size
        for batch in answer_batches(predictor, items, readers, top_k=top_k, batch_size=size, recall=journal.recall):
            for answered in batch:
                result = answered.result
                if result.predictions:
                    tally.good += 1
                    writer.write(result)
                    _print(line_of(result, job.top_k))
                else:
                    tally.bad += 1
                    reject(result)
                    _name(result, tally.bad, job)
                tally.recalled += answered.recalled
                seen(result)
            journal.record(batch)
            advance()


def _name(result: Result, number: int, job: InferenceJob) -> None:
    if number <= MOST_NAMED:
        tell(f"{printable(result.path)}: {result.reason}")
    elif number == MOST_NAMED + 1:
        tell(f"... and more, which {job.rejects} will name")


def _summary(tally: Tally, job: InferenceJob) -> str:
    parts = [f"{tally.good} predictions in {printable(job.output)}"]
    if tally.bad:
        images = "image" if tally.bad == 1 else "images"
        parts.append(f"{tally.bad} {images} could not be read: {printable(job.rejects)}")
    if tally.recalled:
        parts.append(f"{tally.recalled} of an earlier run")
    return "; ".join([*parts, tally.rate])


@contextmanager
def _told_how_to_continue(journal: Journal, tally: Tally) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if journal.can_continue and not isinstance(error, UserError):
            tell(f"stopped after {tally.good + tally.bad} images; the same line with --resume continues")
        raise


@contextmanager
def _progress(tally: Tally) -> Iterator[Callable[[], None]]:
    """A live line where standard error is a terminal and the results go elsewhere; lines of results are one, too."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, transient=True) as progress:
        task = progress.add_task("")
        yield lambda: progress.update(
            task, description=f"{tally.good:,} images predicted, {tally.bad:,} bad, {tally.rate}"
        )


class _PrintError(Exception):
    """Standard output is closed or full: not to be taken for a failure of the files that are being written."""

    def __init__(self, reason: OSError) -> None:
        self.reason = reason


def _print(line: str) -> None:
    try:
        print(line)
    except OSError as error:
        raise _PrintError(error) from error
