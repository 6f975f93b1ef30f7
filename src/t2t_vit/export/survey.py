"""A written file in figures: how large it is, how long it takes to load, how fast it answers here."""

import time
from dataclasses import dataclass

from torch import Tensor

from t2t_vit.export.table import find_format
from t2t_vit.export.write import Exported
from t2t_vit.inference.item import BATCH_SIZE

_SECONDS = 1.0


@dataclass(frozen=True)
class Speed:
    """Seconds until the first answer can be asked for, and images a second in batches of up to 32."""

    load_seconds: float
    images_per_second: float


def speed_of(exported: Exported, images: Tensor) -> Speed:
    """Load the file and run it for a second or so.

    Args:
        images: uint8 (N, in_chans, height, width).
    """
    start = time.perf_counter()
    predictor = find_format(exported.file_format).open(exported.path)
    load_seconds = time.perf_counter() - start
    batch = images[:BATCH_SIZE]
    predictor.logits(batch)
    start, done, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < _SECONDS:
        predictor.logits(batch)
        done, elapsed = done + len(batch), time.perf_counter() - start
    return Speed(load_seconds, done / elapsed)
