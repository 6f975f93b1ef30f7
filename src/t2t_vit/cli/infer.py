"""`t2t-vit infer`: images and a checkpoint or an exported file -> a class for each image."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import cast

from t2t_vit.cli.inference_job import InferenceJob, predict
from t2t_vit.cli.predictor import open_predictor
from t2t_vit.cli.work import work_of
from t2t_vit.errors import UserError
from t2t_vit.inference.archives import is_archive
from t2t_vit.inference.fingerprint import fingerprint
from t2t_vit.inference.item import Item
from t2t_vit.inference.journal import remembered
from t2t_vit.inference.lists import STANDARD_INPUT, listed_images
from t2t_vit.inference.load import is_exported
from t2t_vit.inference.predictor import BATCH_SIZE
from t2t_vit.inference.readers import usable_workers
from t2t_vit.inference.sources import find_images
from t2t_vit.inference.writers import format_of
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config
from t2t_vit.weights import checkpoint_config, read_weights

DEFAULT_OUTPUT = "predictions"


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
    first = next(images)  # what is no image at all is said before the network is read
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
        errors=extras.get("errors", ""),
        resume=_resumes(options),
        unique=len(options.words) == 1 and "list" not in extras and not is_archive(options.words[0]),
        shard=_shard(options.extra("shard")),
        batch_size=cast(int, options.said("batch_size", BATCH_SIZE)),
        workers=usable_workers(cast(int, options.said("num_parallel_workers", Config.num_parallel_workers))),
    )


def _images(options: Options) -> Iterator[Item]:
    """The words' images first, then those of the lists."""
    null = "null" in options.extras
    lists = [STANDARD_INPUT] * (STANDARD_INPUT in options.words)
    lists += [options.extras["list"]] if "list" in options.extras else []
    if null and not lists:
        raise UserError("--null says how a list is separated; name one with --list FILE, or - for standard input")
    words = [word for word in options.words if word != STANDARD_INPUT]
    found = find_images(words, recursive="recursive" in options.extras)
    return chain(found, *[listed_images(name, null=null) for name in lists])


def _as_before(options: Options, job: InferenceJob) -> Options:
    """A run that goes on does so in the runtime that it was begun in, and does not measure again."""
    before = remembered(job.output) if job.resume else {}
    if not before or options.said("runtime", "auto") != "auto":
        return options
    return replace(options, line={**options.line, "runtime": before.get("runtime", "torch")})


def _resumes(options: Options) -> bool:
    asked = options.line.get("resume", "")
    if asked not in ("", "auto"):
        raise UserError(f"--resume '{asked}': infer continues what {DEFAULT_OUTPUT}.json.journal or its like holds;"
                        " write --resume alone")  # fmt: skip
    return asked == "auto"


def _shard(text: str) -> tuple[int, int]:
    first, count = map(int, text.split("/"))
    if not 1 <= first <= count:
        raise UserError(f"--shard '{text}': the first number must lie between 1 and the second")
    return first, count
