"""`t2t-vit infer`: images and a checkpoint or an exported file -> a class for each image."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor

from t2t_vit.cli.predictors import Work, open_predictor
from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.decode import DecodeError, decode
from t2t_vit.errors import OutputError, UserError, printable
from t2t_vit.inference.archives import GZIPPED, TAR, is_archive
from t2t_vit.inference.item import BATCH_SIZE, ImageResult, Item, UnreadableError
from t2t_vit.inference.journal import PredictionJournal, fingerprint, recorded_fingerprint
from t2t_vit.inference.load import is_exported
from t2t_vit.inference.pipeline import answer_batches
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.readers import Readers, usable_workers
from t2t_vit.inference.sources import STANDARD_INPUT, find_images, listed_images
from t2t_vit.inference.torch_predictor import REPAYS_COMPILING
from t2t_vit.inference.writers import check_apart, check_output, format_of, open_rejects, open_writer
from t2t_vit.notes import counted, tell
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config
from t2t_vit.weights import checkpoint_config, read_weights

DEFAULT_OUTPUT = "predictions"
_LOOKED_AT = 4  # spare images for each wanted one, in case some are unreadable
MOST_NAMED = 20  # bad images shown on standard error; the errors file lists all


@dataclass(frozen=True)
class InferenceJob:
    """What is asked for beside the images and the network.

    top_k: 0 for the contract's short form. unique: no path comes twice. shard: (i, n), the i-th of every n items,
    from 1. fingerprint: what the answers depend on, asked for only where a journal is written.
    """

    output: str
    format: str = "json"
    top_k: int = 0
    for_spreadsheets: bool = False
    errors: str = ""
    resume: bool = False
    unique: bool = True
    shard: tuple[int, int] = (1, 1)
    batch_size: int = BATCH_SIZE
    workers: int = 0
    max_pixels: int = Config.max_pixels
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
        check_apart(self.rejects, self.output, f"--errors {self.errors}")


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


class _PrintError(Exception):
    """Standard output is closed or full: not to be taken for a failure of the files that are being written."""

    def __init__(self, reason: OSError) -> None:
        self.reason = reason


def run(options: Options) -> int:
    """Predict; 1 where some images were bad."""
    path = options.required_checkpoint()
    if options.print_config:
        config, _ = resolve(options, None if is_exported(path) else checkpoint_config(read_weights(path)))
        print(to_yaml(config), end="")
        return 0
    job = _job(options)
    job.check()
    images = _images(options)
    first = next(images)  # a file that is not an image is reported before the network is read
    runtime, predictor = open_predictor(_as_before(options, job), work_of(options, job, lambda: _images(options)))
    keys = ("amp_level", "num_classes")
    asked = {key: options.said(key, "") for key in keys} | {"shard": list(job.shard)}
    asked |= {} if runtime in ("", "torch") else {"runtime": runtime}
    job = replace(job, fingerprint=lambda: fingerprint(path, predictor, max(1, job.top_k), asked))
    tally = predict(predictor, chain([first], images), job)
    return 1 if tally.bad else 0


def _job(options: Options) -> InferenceJob:
    extras = options.extras
    chosen = format_of(extras.get("output", ""), extras.get("format"))
    return InferenceJob(
        output=extras.get("output", f"{DEFAULT_OUTPUT}.{chosen}"),
        format=chosen,
        top_k=options.extra("top_k"),
        for_spreadsheets=_for_spreadsheets(options, chosen),
        errors=extras.get("errors", ""),
        resume=_resumes(options),
        unique=len(options.words) == 1 and "list" not in extras and not is_archive(options.words[0]),
        shard=_shard(options.extra("shard")),
        batch_size=cast(int, options.said("batch_size", BATCH_SIZE)) or BATCH_SIZE,
        max_pixels=cast(int, options.said("max_pixels", Config.max_pixels)),
        workers=usable_workers(cast(int, options.said("num_parallel_workers", Config.num_parallel_workers))),
    )


def _for_spreadsheets(options: Options, chosen: str) -> bool:
    asked = "spreadsheet" in options.extras
    if asked and chosen != "csv":
        raise UserError(f"--spreadsheet is for CSV, but the output is {chosen}; add --format csv")
    return asked


def _images(options: Options) -> Iterator[Item]:
    """The words' images first, then those of the lists."""
    null = "null" in options.extras
    lists = [STANDARD_INPUT] * (STANDARD_INPUT in options.words)
    lists += [options.extras["list"]] if "list" in options.extras else []
    if null and not lists:
        raise UserError("--null is for a list of paths; give the list with --list FILE, or - for standard input")
    words = [word for word in options.words if word != STANDARD_INPUT]
    found = find_images(words, recursive="recursive" in options.extras)
    return chain(found, *[listed_images(name, null=null) for name in lists])


def _as_before(options: Options, job: InferenceJob) -> Options:
    """A continued run keeps the runtime that it began with, without measuring again."""
    before = recorded_fingerprint(job.output) if job.resume else {}
    if not before or options.said("runtime", "auto") != "auto":
        return options
    return replace(options, line={**options.line, "runtime": before.get("runtime", "torch")})


def _resumes(options: Options) -> bool:
    asked = options.line.get("resume", "")
    if asked not in ("", "auto"):
        raise UserError(f"--resume '{asked}': infer continues from the journal beside its output, such as"
                        f" {DEFAULT_OUTPUT}.json.journal; write --resume without a value")  # fmt: skip
    return asked == "auto"


def _shard(text: str) -> tuple[int, int]:
    first, count = map(int, text.split("/"))
    if not 1 <= first <= count:
        raise UserError(f"--shard '{text}': the first number must lie between 1 and the second")
    return first, count


def work_of(options: Options, job: InferenceJob, images: Callable[[], Iterator[Item]]) -> Work:
    """The work of this job, which `images` goes through from the beginning, again and again."""
    known = _can_be_read_twice(options)
    share = job.shard[1]
    return Work(
        job.batch_size,
        lambda: _count(images(), share) if known else 0,
        lambda predictor: _some(images() if known else iter(()), predictor, job),
    )


def _can_be_read_twice(options: Options) -> bool:
    """Neither standard input, nor a pipe, nor an archive that would have to be read to its end."""
    places = [*options.words, *([options.extras["list"]] if "list" in options.extras else [])]
    if STANDARD_INPUT in places:
        return False
    return all(
        Path(place).is_dir() or (Path(place).is_file() and not place.lower().endswith(TAR + GZIPPED))
        for place in places
    )


def _count(images: Iterator[Item], share: int) -> int:
    """Images of this shard, up to as many as make any difference."""
    return sum(1 for _ in islice(images, REPAYS_COMPILING * share)) // share


def _some(images: Iterator[Item], predictor: Predictor, job: InferenceJob) -> Tensor:
    """A batch of images as the predictor takes them, (B, in_chans, height, width); noise where none can be read."""
    count, budget = job.batch_size, PixelBudget(job.max_pixels)
    mode, reduction = predictor.preprocessing.mode, predictor.preprocessing.reduction
    prepared: list[Tensor] = []
    for item in islice(images, _LOOKED_AT * count):
        try:
            if not item.reason:
                source = item.path if item.content is None else item.content()
                prepared.append(predictor.preprocessing(decode(source, mode, reduction, budget)))
        except (DecodeError, UnreadableError):
            continue
        if len(prepared) == count:
            break
    if prepared:
        return torch.stack(prepared)
    shape = (count, predictor.preprocessing.in_chans, *predictor.preprocessing.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def predict(
    predictor: Predictor, items: Iterable[Item], job: InferenceJob, seen: Callable[[ImageResult], None] = lambda _: None
) -> Tally:
    """Print a line for each image, name the bad ones, write the output; `seen` gets every result.

    Raises:
        UserError: a file cannot be written, or a run cannot be continued.
    """
    first, count = job.shard
    chosen = islice(items, first - 1, None, count)
    journal = PredictionJournal(
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


def line_of(result: ImageResult, top_k: int) -> str:
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
    journal: PredictionJournal,
    tally: Tally,
    seen: Callable[[ImageResult], None],
) -> None:
    with ExitStack() as stack:
        readers = stack.enter_context(closing(Readers(predictor.preprocessing, job.workers, max_pixels=job.max_pixels)))
        writer = stack.enter_context(
            open_writer(
                job.output,
                job.format,
                top_k=job.top_k,
                unique=job.unique,
                for_spreadsheets=job.for_spreadsheets,
            )
        )
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


def _name(result: ImageResult, number: int, job: InferenceJob) -> None:
    if number <= MOST_NAMED:
        tell(f"{result.path}: {result.reason}")
    elif number == MOST_NAMED + 1:
        tell(f"... and more; {job.rejects} lists them all")


def _summary(tally: Tally, job: InferenceJob) -> str:
    parts = [f"{counted(tally.good, 'prediction')} in {job.output}"]
    if tally.bad:
        parts.append(f"{counted(tally.bad, 'image')} could not be read: {job.rejects}")
    if tally.recalled:
        parts.append(f"{tally.recalled} from an earlier run")
    return "; ".join([*parts, tally.rate])


@contextmanager
def _told_how_to_continue(journal: PredictionJournal, tally: Tally) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if journal.can_continue and (isinstance(error, OutputError) or not isinstance(error, UserError)):
            tell(f"stopped after {counted(tally.good + tally.bad, 'image')}; the same command with --resume continues")
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


def _print(line: str) -> None:
    try:
        print(line)
    except OSError as error:
        raise _PrintError(error) from error
