"""Predictions by PyTorch."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.predictor import Predictor
from t2t_vit.model import T2TViT
from t2t_vit.model.packed import can_pack, pack
from t2t_vit.precision import Precision


class TorchPredictor(Predictor):
    """A module in eval mode; a T2T-ViT on a CPU is packed for it when it first predicts (`model.packed`).

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
        with torch.inference_mode():
            normalised = self.preprocessing.normalize(images.to(self.precision.device))  # (B, in_chans, height, width)
            return self._network(normalised).float().cpu()  # (B, num_classes)

    @cached_property
    def _network(self) -> Callable[[Tensor], Tensor]:
        dtype = self.precision.autocast_dtype or self.precision.weights_dtype
        if isinstance(self.model, T2TViT) and can_pack(self.precision.device, dtype):
            return pack(self.model, dtype)

        def network(images: Tensor) -> Tensor:
            with self.precision.autocast():
                return self.model(images)

        return network
