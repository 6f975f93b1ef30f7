"""What `infer` has ahead: how many images, and a few of them to try runtimes on."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.cli.inference_job import InferenceJob
from t2t_vit.cli.runtimes import Work
from t2t_vit.data.decode import DecodeError, decode
from t2t_vit.inference.archives import GZIPPED, TAR
from t2t_vit.inference.item import Item, UnreadableError
from t2t_vit.inference.lists import STANDARD_INPUT
from t2t_vit.inference.plan import REPAYS_COMPILING
from t2t_vit.inference.predictor import Predictor
from t2t_vit.settings.command_line import Options

_LOOKED_AT = 4  # as many images for each that is wanted, in case some are broken


def work_of(options: Options, job: InferenceJob, images: Callable[[], Iterator[Item]]) -> Work:
    """The work of this job, which `images` goes through from the beginning, again and again."""
    known = _can_be_read_twice(options)
    share = job.shard[1]
    return Work(
        job.batch_size,
        lambda: _count(images(), share) if known else 0,
        lambda predictor: _some(images() if known else iter(()), predictor, job.batch_size),
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


def _some(images: Iterator[Item], predictor: Predictor, count: int) -> Tensor:
    """`count` images as the predictor takes them, (B, in_chans, height, width); noise where there are none to read."""
    prepared: list[Tensor] = []
    for item in islice(images, _LOOKED_AT * count):
        try:
            if not item.reason:
                source = item.path if item.content is None else item.content()
                prepared.append(predictor.preprocessing(decode(source, predictor.preprocessing.mode)))
        except (DecodeError, UnreadableError):
            continue
        if len(prepared) == count:
            break
    if prepared:
        return torch.stack(prepared)
    shape = (count, predictor.preprocessing.in_chans, *predictor.preprocessing.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
