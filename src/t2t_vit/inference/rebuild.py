"""Weights and settings -> the network, its preprocessing and its class names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from t2t_vit.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT, create_model
from t2t_vit.weights import Report, Weights, fit


@dataclass(frozen=True)
class Rebuilt:
    """A network in eval mode with its weights, and what belongs to it; `classes` is None where no names are known."""

    model: T2TViT
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    report: Report


def rebuild(weights: Weights, settings: Mapping[str, Any], note: Callable[[str], None]) -> Rebuilt:
    """The network that `settings` describe, filled with `weights`.

    Args:
        weights: as `read_weights` gives them.
        settings: a flat configuration; read are `arch`, `num_classes`, `image_size`, `in_chans`,
            `disable_approximate_gelu`, `crop_pct`, `mean` and `std`. What no setting can name, the weights decide:
            `global_pool`, `other_sizes`, `interpolation` and `crop_mode`.
        note: told, a sentence each, what differs from the weights: head, position table, tensors without a use.

    Raises:
        UserError: the weights do not fit, the class count or the image size is unknown, or the network answers for each
            token, or its images are cropped in a way that is not ours.
    """
    size = _image_size(weights, settings)
    if not settings.get("num_classes"):
        raise UserError(f"{weights.path}: has no head to count the classes by; give num_classes")
    own = weights.config or {}
    global_pool = own.get("global_pool", "token")
    if global_pool not in ("token", "avg"):
        raise UserError(
            f"{weights.path}: its global_pool is {global_pool!r}, which gives no one answer for an image; open it with "
            "t2t_vit.from_pretrained"
        )
    model = create_model(
        settings["arch"],
        num_classes=settings["num_classes"],
        in_chans=settings.get("in_chans", 3),
        image_size=size,
        approximate_gelu=not settings.get("disable_approximate_gelu", True),
        global_pool=global_pool,
        other_sizes=own.get("other_sizes"),
    )
    report = fit(model, weights.tensors, path=weights.path, chosen=weights.chosen)
    for sentence in _differences(model, weights, report):
        note(sentence)
    named = weights.classes is not None and len(weights.classes) == model.num_classes
    classes = weights.classes if named else None
    return Rebuilt(model.eval(), _preprocessing(settings, own, size), classes, report)


def _image_size(weights: Weights, settings: Mapping[str, Any]) -> tuple[int, int]:
    size = settings.get("image_size")
    if not size:
        raise UserError(f"{weights.path}: its positions form no square; give image_size as height and width")
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _preprocessing(settings: Mapping[str, Any], own: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing:
    if own.get("crop_mode", "center") != "center":
        raise UserError(f"crop_mode is {own['crop_mode']!r}; images are cropped at their centre here, and only so")
    try:
        return Preprocessing(
            image_size=size,
            crop_pct=settings.get("crop_pct", 0.9),
            mean=tuple(settings.get("mean") or IMAGENET_MEAN),
            std=tuple(settings.get("std") or IMAGENET_STD),
            in_chans=settings.get("in_chans", 3),
            interpolation=own.get("interpolation", "bicubic"),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _differences(model: T2TViT, weights: Weights, report: Report) -> list[str]:
    sentences = []
    if weights.unread:
        sentences.append(f"not read in its config.json: {', '.join(weights.unread)}")
    if report.resized:
        sentences.append(
            f"the position table is computed anew for {model.grid[0]} x {model.grid[1]} tokens, "
            f"as image_size {model.image_size[0]} x {model.image_size[1]} needs"
        )
    if report.new:
        head = weights.tensors.get("head.weight")
        there = "the file has none" if head is None else f"that of the file has {len(head)}"
        sentences.append(f"the head for {model.num_classes} classes is new ({there}) and knows nothing until trained")
    if report.adapted:
        sentences.append(f"the first layers are adapted to {model.in_chans} input channels")
    if report.unused:
        sentences.append(f"not used: {', '.join(report.unused[:5])}{', ...' if report.unused[5:] else ''}")
    return [f"{weights.path}: {sentence}" for sentence in sentences]
