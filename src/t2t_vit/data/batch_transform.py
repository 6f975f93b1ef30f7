"""The training transform of a batch, on its device: normalise -> erase -> mix, in the order of the authors' recipe."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.data.erasing import RandomErasing
from t2t_vit.data.mixing import Mixing, soft_targets
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.seeds import Purpose, generator
from t2t_vit.data.share import Share


@dataclass(frozen=True)
class BatchTransform:
    """uint8 images and classes -> normalised, erased, mixed images and soft targets.

    Erasing depends on (seed, epoch, index) of each sample; mixing, which needs partners, on (seed, epoch, batch) and
    the place in the global batch. Nothing waits for the device.
    """

    preprocessing: Preprocessing
    num_classes: int
    erasing: RandomErasing = field(default_factory=RandomErasing)
    mixing: Mixing = field(default_factory=Mixing)
    label_smoothing: float = 0.0
    seed: int = 0

    def __call__(
        self, images: Tensor, targets: Tensor, epoch: int, indices: NDArray[np.int64], share: Share
    ) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W), int64 (N,), the samples' numbers (N,) -> float32 (B, C, H, W), float32 (B, K).

        N samples are the B own ones of `share` and, in an epoch with mixing, its strangers.
        """
        floats = self.erasing(self.preprocessing.normalize(images), self.seed, epoch, indices)
        soft = soft_targets(targets, self.num_classes, self.label_smoothing)
        if not self.mixing.active(epoch):
            return floats, soft
        return self.mixing(floats, soft, share, generator(self.seed, epoch, share.batch, Purpose.MIX))
