"""Predictions by PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.predictor import Predictor
from t2t_vit.precision import Precision


class TorchPredictor(Predictor):
    """A module in eval mode.

    Args:
        model: float (B, in_chans, height, width) -> logits (B, num_classes); moved to the precision's device, cast to
            its weights, and set to eval mode.
        precision: where and in which numbers it runs; None is float32 on the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        classes: Sequence[str] | None,
        precision: Precision | None = None,
    ) -> None:
        super().__init__(preprocessing, classes)
        self.precision = precision or Precision("O0", torch.device("cpu"))
        self.model = self.precision.prepare(model).eval()

    def logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), self.precision.autocast():
            normalised = self.preprocessing.normalize(images.to(self.precision.device))  # (B, in_chans, height, width)
            logits: Tensor = self.model(normalised)  # (B, num_classes)
            return logits.float().cpu()
