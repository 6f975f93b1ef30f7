"""What the images decide of a configuration."""

import numpy as np
import pytest
from torch import nn

from t2t_vit.cli.train import average_note, fit_to_data
from t2t_vit.data.images import ArrayImages
from t2t_vit.settings.schema import Config
from t2t_vit.training.average import EpochAverage
from t2t_vit.training.state import State


def images(*counts: int) -> ArrayImages:
    labels = np.repeat(np.arange(len(counts)), counts)
    return ArrayImages(np.zeros((len(labels), 2, 2), np.uint8), labels, "abcdef"[: len(counts)], "L", "noise")


def fitted(counts: tuple[int, ...], given: tuple[str, ...] = (), **keys: object) -> tuple[Config, list[str]]:
    told: list[str] = []
    return fit_to_data(Config(**keys), images(*counts), given, told.append), told


def test_two_classes_are_not_smoothed_unless_somebody_says_so() -> None:
    config, told = fitted((20, 20))
    assert (config.num_classes, config.label_smoothing) == (2, 0.0)
    assert told[-1].startswith("label_smoothing 0.1 is off, because there are 2 classes")
    assert fitted((20, 20), ("label_smoothing",))[0].label_smoothing == 0.1
    assert fitted((20, 20, 20))[0].label_smoothing == 0.1
    assert fitted((20, 20), label_smoothing=0.0)[1] == ["20 training images per class"]


@pytest.mark.parametrize(
    ("counts", "balance", "expected"),
    [
        ((20, 30, 25), "none", ["training images per class: 20 (a) to 30 (b)"]),
        (
            (20, 300, 25),
            "none",
            [
                "training images per class: 20 (a) to 300 (b); rare classes may be recognised less often: "
                "--class_balance weights (or sampling) helps"
            ],
        ),
        ((20, 79, 25), "none", ["training images per class: 20 (a) to 79 (b)"]),
        ((20, 300, 25), "weights", ["training images per class: 20 (a) to 300 (b)"]),
    ],
)
def test_class_counts_are_said(counts: tuple[int, ...], balance: str, expected: list[str]) -> None:
    assert fitted(counts, class_balance=balance)[1] == expected


def test_few_images_are_remarked_upon() -> None:
    assert "classes with fewer than 10 training images: 2 of 3" in fitted((9, 3, 12))[1][-1]


@pytest.mark.parametrize(
    ("kind", "first", "end", "is_said"),
    [
        ("swa", 4, 39, True),
        ("swa", 4, 40, False),
        ("swa", 4, 60, False),
        ("last_k", 1, 9, True),
        ("last_k", 1, 10, False),
    ],
)
def test_an_average_that_begins_after_the_run_ends_is_said(kind: str, first: int, end: int, is_said: bool) -> None:
    average = EpochAverage(nn.Linear(2, 2), last=2 if kind == "last_k" else 0, first_epoch=first)
    state, config = State(10, 6, end), Config(model_average=kind)
    text = average_note(config, average, state, end)
    assert bool(text) is is_said
    sentence = (
        f"model_average {kind}: averaging begins at the end of epoch {first} of 6, but the run ends before that, at "
        "step "
        f"{end}"
    )
    assert text in ("", sentence)
    average.count = 1  # of a run that was longer once
    assert average_note(config, average, state, end) == average_note(config, None, state, end) == ""
