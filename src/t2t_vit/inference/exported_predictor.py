"""What all exported files have in common, whatever runs them."""

from abc import abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.inference.metadata import Metadata
from t2t_vit.inference.predictor import Predictor


class ExportedPredictor(Predictor):
    """A file that `export` wrote: its metadata carry the preprocessing and the class names; a runtime provides `run`.

    Where the file is fixed at a number of images, batches are cut and filled up to it.
    """

    def __init__(self, path: str | Path, metadata: Metadata) -> None:
        super().__init__(metadata.preprocessing, metadata.classes)
        self.path, self.metadata = path, metadata

    @abstractmethod
    def run(self, inputs: Tensor) -> Tensor:
        """The file's own input, contiguous (B, in_chans, height, width), uint8 or float32 -> float32 logits."""

    @property
    def arch(self) -> str:
        """The network's name."""
        return self.metadata.arch

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.metadata.num_classes

    def logits(self, images: Tensor) -> Tensor:
        inside = self.metadata.normalised_inside
        return self._batched(images if inside else self.preprocessing.normalize(images))

    def logits_of_normalised(self, images: Tensor) -> Tensor:
        """float32 images, normalised (B, in_chans, height, width) -> logits (B, num_classes)."""
        return self._batched(self.preprocessing.denormalize(images) if self.metadata.normalised_inside else images)

    def _batched(self, inputs: Tensor) -> Tensor:
        count = self.metadata.batch or len(inputs)
        answers = []
        for part in torch.split(inputs.contiguous(), count):
            filled = torch.cat([part, part[:1].expand(count - len(part), -1, -1, -1)]) if len(part) < count else part
            answers.append(self.run(filled)[: len(part)])
        return torch.cat(answers)  # (B, num_classes)
