"""What a writer of files is given: a network, and the kind of file that is wanted of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from t2t_vit.inference.exported import ExportPrecision, Metadata
from t2t_vit.model import T2TViT

# torch.export takes a size of 0 or 1 in the example for a constant.
_EXAMPLE_BATCH = 2


@dataclass(frozen=True)
class Kind:
    """What kind of file is wanted; the attributes are those of `Metadata`."""

    precision: ExportPrecision = "fp32"
    batch: int = 0
    dynamic_size: bool = False
    normalised_inside: bool = False


PLAIN = Kind()


@dataclass(frozen=True)
class ExportJob:
    """A network and the kind of file that is wanted of it.

    Attributes:
        model: in eval mode, in float32, on the CPU; writers leave it as it is.
        metadata: what the file will say of itself, the kind among it: precision, batch, sizes, normalisation.
        calibration: real images to measure the range of activations on, for int8: uint8 (N, in_chans, height, width).
    """

    model: T2TViT
    metadata: Metadata
    calibration: Tensor

    @property
    def bytes_of_weights(self) -> int:
        """What the weights take in the file."""
        stored = {"fp32": 4, "fp16": 2, "int8": 1}[self.metadata.precision]
        return stored * sum(weight.numel() for weight in self.model.parameters())

    def example(self) -> Tensor:
        """Images as the file takes them, of its batch or of 2: (B, in_chans, height, width)."""
        chans, size = self.metadata.preprocessing.in_chans, self.metadata.preprocessing.image_size
        dtype = torch.uint8 if self.metadata.normalised_inside else torch.float32
        return torch.zeros(self.metadata.batch or _EXAMPLE_BATCH, chans, *size, dtype=dtype)

    def dynamic_shapes(self) -> tuple[dict[int, object]]:
        """Which sides of the example may change, as torch.export wants it."""
        dynamic: dict[int, object] = {} if self.metadata.batch else {0: torch.export.Dim("batch")}
        if self.metadata.dynamic_size:
            dynamic |= {2: torch.export.Dim("height", max=8192), 3: torch.export.Dim("width", max=8192)}
        return (dynamic,)

    def calibration_inputs(self) -> Iterator[Tensor]:
        """The calibration images one by one, or in the file's batch, as the file takes them."""
        inside, prepare = self.metadata.normalised_inside, self.metadata.preprocessing.normalize
        count = self.metadata.batch or 1
        for images in torch.split(self.calibration, count):
            if len(images) == count:
                yield images if inside else prepare(images)

    def in_float32(self) -> Self:
        """The same job for a format that lowers the precision by itself."""
        return replace(self, metadata=replace(self.metadata, precision="fp32"))
