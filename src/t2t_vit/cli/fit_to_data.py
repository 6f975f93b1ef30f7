"""What the images decide of a configuration, and what to say of them before a training begins."""

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from t2t_vit.data.images import ImageSet
from t2t_vit.settings.schema import Config

FEW = 10  # images a class below which a network hardly learns anything but these very images
UNEVEN = 10  # times that the largest class is larger than the smallest


def fit_to_data(config: Config, images: ImageSet, given: Collection[str], note: Callable[[str], None]) -> Config:
    """`config` with the class count of the training images, and without label smoothing where it has no sense.

    Args:
        given: keys that stood on the command line, which stay as they are.
        note: told what was changed, and what is unusual about the images.
    """
    classes = len(images.classes)
    config = replace(config, num_classes=classes)
    for text in _remarks(images, config.class_balance):
        note(text)
    if classes < 3 and config.label_smoothing > 0 and "label_smoothing" not in given:
        # Of two classes it takes a share of every answer's certainty and says nothing about which are alike.
        note(f"label_smoothing {config.label_smoothing:g} is off, as there are {classes} classes; on the line it stays")
        config = replace(config, label_smoothing=0.0)
    return config


def _remarks(images: ImageSet, class_balance: str) -> list[str]:
    counts = np.bincount(images.targets, minlength=len(images.classes))
    fewest, most = int(counts.argmin()), int(counts.argmax())
    low, high = int(counts[fewest]), int(counts[most])
    if low == high:
        told = [f"{low:,} training images a class"]
    else:
        told = [f"training images a class: {low:,} ({images.classes[fewest]}) to {high:,} ({images.classes[most]})"]
    if high > UNEVEN * max(1, low) and class_balance == "none":
        told[0] += "; rare classes may lose: class_balance weights or sampling makes up for it"
    few = int((counts < FEW).sum())
    if few:
        told.append(
            f"{few} of {len(counts)} classes have fewer than {FEW} training images: expect little of them, and of the "
            "accuracy measured on fewer still"
        )
    return told
