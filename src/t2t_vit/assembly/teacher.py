"""The file that the key `teacher` names -> a teacher that answers in the student's classes about its images."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2t_vit.assembly.build import preprocessing_of
from t2t_vit.assembly.teacher_files import open_teacher_file
from t2t_vit.data.batch_transform import Mixing, inside
from t2t_vit.data.conversion import Conversion
from t2t_vit.data.scan import class_name
from t2t_vit.errors import UserError
from t2t_vit.model.token_logits import TokenMixing
from t2t_vit.precision import Precision
from t2t_vit.settings.schema import Config
from t2t_vit.training.randomness import step_seed
from t2t_vit.training.teacher import Distillation, Guidance, Teacher, TokenDistillation, hard_loss, soft_loss
from t2t_vit.variants import find_variant

Note = Callable[[str], None]
WORDNET_ID = re.compile(r"n\d{8}")  # what ImageNet's folders are called
SHOWN = 5  # names of classes
TRAIN_IT_FIRST = "a teacher must know the classes of the data: first train it on them, with --pretrained"


def open_teacher(config: Config, classes: Sequence[str], precision: Precision, note: Note) -> Teacher | None:
    """The teacher of `config`, in eval mode on the device, as fast as predictions are there; None without `distill`.

    Args:
        classes: the student's, in the order of its logits.

    Raises:
        UserError: the file cannot be read or is no network, or does not know all the classes.
    """
    if config.distill == "none":
        return None
    try:
        found = open_teacher_file(config.teacher, precision, config.kernels, note, dense=config.distill == "dense")
    except UserError as error:
        moved = "; give its file with --teacher" if isinstance(error.__cause__, FileNotFoundError) else ""
        raise UserError(f"teacher {str(error).removeprefix('teacher ')}{moved}") from error
    columns = _columns(config.teacher, found.classes, found.count, classes, note)
    note(f"teacher: {config.teacher}, {found.made_of}")
    return Teacher(
        found.network,
        Conversion(preprocessing_of(config), found.preprocessing, precision.device),
        None if columns is None else torch.tensor(columns, device=precision.device),
        precision.autocast,
        found.digest,
    )


def guidance_of(config: Config, teacher: Teacher | None, device: torch.device) -> Guidance | None:
    """What the training step learns from the teacher."""
    if teacher is None:
        return None
    if config.distill == "dense":
        mixing = TokenMixing(partial(_box, config.mix_token, config.seed, device)) if config.mix_token else None
        variant = find_variant(config.arch)
        return TokenDistillation(teacher, config.distill_weight, lambda size: variant.grids(size)[-1], mixing)
    loss = partial(soft_loss, temperature=config.distill_temperature) if config.distill == "soft" else hard_loss
    return Distillation(teacher, loss, config.distill_weight)


def _box(alpha: float, seed: int, device: torch.device, grid: tuple[int, int], step: int, part: int) -> Tensor:
    """MixToken's box, drawn as cutmix draws its own: (N,) bool, a function of the seed and the batch."""
    rng = np.random.default_rng(step_seed(seed, step, -1 - part))  # not the seeds of what is dropped
    return inside(Mixing(cutmix=alpha).draw(1, *grid, rng).boxes, *grid, device).flatten()


def loss_note(config: Config) -> str:
    """What the losses of the log are, of a run with a teacher."""
    part = "the cross-entropy with the teacher's first choice"
    if config.distill == "soft":
        heat = f" at temperature {config.distill_temperature:g}, times its square"
        part = f"the divergence from the teacher's probabilities{'' if config.distill_temperature == 1 else heat}"
    elif config.distill == "dense":
        part = "the cross-entropy of each token with the teacher's probabilities for its place"
    weight = config.distill_weight
    return (
        f"distill {config.distill}: the training loss is {1 - weight:g} x the loss of the targets + {weight:g} x {part}"
    )


def _wordnet_ids(count: int, classes: Sequence[str]) -> Sequence[str] | None:
    """ImageNet's 1,000 classes, in the order that all networks have, where those of the data are called like them."""
    if count != 1000 or not all(WORDNET_ID.fullmatch(name) for name in classes):
        return None
    from timm import data

    timm_data: Any = data  # untyped
    names: Sequence[str] = timm_data.ImageNetInfo("imagenet-1k").label_names()
    return names


def _columns(
    path: str, known: Sequence[str] | None, count: int, classes: Sequence[str], note: Note
) -> list[int] | None:
    """The teacher's class for each of `classes`; None where they are the same in the same order.

    Args:
        known: names of its classes, where the file has them.
        count: how many it has.
    """
    known = known or _wordnet_ids(count, classes)
    if known is None:
        if count != len(classes):
            raise UserError(
                f"teacher {path}: has {count} classes without names, but the data have {len(classes)}; {TRAIN_IT_FIRST}"
            )
        note(
            f"teacher {path}: its {count} classes have no names; they are taken to be those of the data, in the same "
            "order"
        )
        return None
    known, classes = [class_name(name) for name in known], [class_name(name) for name in classes]
    if known == classes:
        return None
    columns = {name: column for column, name in reversed([*enumerate(known)])}  # of equal names the first
    if missing := [name for name in classes if name not in columns]:
        more = f" and {len(missing) - SHOWN} more" if missing[SHOWN:] else ""
        raise UserError(
            f"teacher {path}: does not know {len(missing)} of the {len(classes)} classes ({', '.join(missing[:SHOWN])}"
            f"{more}); {TRAIN_IT_FIRST}"
        )
    subset = f"{len(classes)} of its {len(known)} classes" if len(classes) < len(known) else "its classes"
    note(f"teacher {path}: {subset} are matched by name")
    return [columns[name] for name in classes]
