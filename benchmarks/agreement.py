"""Whether the precision that `--amp_level auto` chooses gives the answers of float32."""

from pathlib import Path
from typing import Any

import torch

import t2t_vit
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.inference.predictor import Predictor


def top1_kept(checkpoint: Path, device: torch.device, count: int = 200) -> dict[str, Any]:
    """How often amp_level auto answers as float32 does, and how often both are right, on embedded validation images."""
    exact, chosen = (
        t2t_vit.load(checkpoint, device=device, amp_level=level, kernels="auto") for level in ("O0", "auto")
    )
    return answers_kept(exact, chosen, count)


def answers_kept(exact: Predictor, other: Predictor, count: int = 200) -> dict[str, Any]:
    """How often two predictors agree, and how often each is right, on embedded validation images."""
    images = fashion_mnist("val", exact.preprocessing.mode)
    numbers = range(0, len(images) // count * count, len(images) // count)
    pixels = torch.stack([exact.preprocessing(images.read(number)) for number in numbers])
    targets = torch.from_numpy(images.targets[list(numbers)])
    ours, theirs = (
        torch.cat([predictor.logits(batch).argmax(dim=1) for batch in pixels.split(8)]) for predictor in (exact, other)
    )
    return {
        "images": count,
        "same_top1": float((ours == theirs).float().mean()),
        "top1_of_the_first": float((ours == targets).float().mean()),
        "top1_of_the_other": float((theirs == targets).float().mean()),
    }
