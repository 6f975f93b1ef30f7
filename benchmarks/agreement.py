"""Whether the precision that `--amp_level auto` chooses gives the answers of float32."""

from pathlib import Path
from typing import Any

import torch

from t2t_vit.data.embedded import fashion_mnist
from t2t_vit.inference.rebuild import rebuild
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_precision
from t2t_vit.weights import read_weights


def top1_kept(checkpoint: Path, device: torch.device, count: int = 200) -> dict[str, Any]:
    """How often amp_level auto answers as float32 does, and how often both are right, on embedded validation images."""
    answers = {}
    for level in ("O0", "auto"):
        weights = read_weights(checkpoint)
        rebuilt = rebuild(weights, weights.config or {}, print)
        precision = choose_precision(level, device, training=False)
        predictor = TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes, precision)
        images = fashion_mnist("val", rebuilt.preprocessing.mode)
        step = len(images) // count
        chosen = range(0, step * count, step)
        pixels = torch.stack([rebuilt.preprocessing(images.read(number)) for number in chosen])
        answers[level] = torch.cat([predictor.logits(batch).argmax(dim=1) for batch in pixels.split(8)])
        targets = torch.from_numpy(images.targets[list(chosen)])
    return {
        "images": count,
        "same_top1": float((answers["O0"] == answers["auto"]).float().mean()),
        "top1_float32": float((answers["O0"] == targets).float().mean()),
        "top1_auto": float((answers["auto"] == targets).float().mean()),
    }
