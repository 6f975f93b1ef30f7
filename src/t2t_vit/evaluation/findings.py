"""What one exact pass over the validation images found, in plain numbers: all that the report of a run shows of it."""

import base64
import io
import math
from dataclasses import asdict
from typing import Any

from PIL import Image

from t2t_vit.data.images import ImageSet
from t2t_vit.evaluation.outcomes import (
    Outcomes,
    calibration,
    class_scores,
    confident_mistakes,
    confusion_matrix,
    top_confusions,
)

MISTAKES = 24
SIDE = 192  # pixels of a mistake's longer side
MATRIX = 40  # classes, at most, whose confusion matrix is kept whole
CONFUSIONS = 50


def details(outcomes: Outcomes, images: ImageSet) -> dict[str, Any]:
    """What the report shows of one evaluation, in plain numbers; an image in it is a data URI."""
    classes = len(images.classes)
    confusions = top_confusions(outcomes, classes, len(outcomes))
    taken_for: dict[int, tuple[int, int]] = {}
    for true, predicted, count in confusions:  # the commonest come first
        taken_for.setdefault(true, (predicted, count))
    return {
        "count": len(outcomes),
        "unreadable": len(images) - len(outcomes),
        "loss": finite(outcomes.loss.mean().item()),
        "top1": outcomes.right.double().mean().item(),
        "top5": (outcomes.rank < 5).double().mean().item(),
        "unanswered": int((outcomes.predicted < 0).sum()),
        "classes": list(images.classes),
        "class_scores": [
            {
                "count": score.count,
                "predicted": score.predicted,
                "right": score.right,
                "precision": score.precision,
                "recall": score.recall,
                "f1": score.f1,
                "taken_for": taken_for.get(score.number),
            }
            for score in class_scores(outcomes, classes)
        ],
        "confusion_matrix": confusion_matrix(outcomes, classes).tolist() if classes <= MATRIX else None,
        "confusions": confusions[:CONFUSIONS],
        "calibration": asdict(calibration(outcomes)),
        "mistakes": [_mistake(outcomes, images, row) for row in confident_mistakes(outcomes, MISTAKES)],
    }


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _mistake(outcomes: Outcomes, images: ImageSet, row: int) -> dict[str, Any]:
    number = outcomes.number_of(row)
    return {
        "name": images.name(number),
        "true": int(outcomes.target[row]),
        "predicted": int(outcomes.predicted[row]),
        "confidence": outcomes.confidence[row].item(),
        "picture": data_uri(images.read(number)),
    }


def data_uri(image: Image.Image) -> str:
    """A small copy of `image` that a page can hold: PNG where it is tiny, else JPEG."""
    small = image.convert("RGB") if image.mode not in ("L", "RGB") else image
    small.thumbnail((SIDE, SIDE))
    tiny = max(small.size) <= SIDE // 2
    buffer = io.BytesIO()
    small.save(buffer, format="PNG" if tiny else "JPEG", **({} if tiny else {"quality": 85}))
    kind = "png" if tiny else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
