"""A small set of images on the device: there a whole batch is cropped, resized and flipped at once."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from t2t_vit.data.images import ImageSet
from t2t_vit.data.resampling import resized_crops
from t2t_vit.data.samples import Request
from t2t_vit.data.seeds import Keys, Purpose, keys
from t2t_vit.data.transforms import TrainTransform, crop_box

MOST_BYTES = 2**30  # of pixels on the device
_COMPARED = 64  # samples that have to be the processor's before the device is trusted with them


class ResidentImages:
    """What `TrainSamples` gives, to the bit, for images that lie on the device.

    Args:
        pixels: uint8 (N, C, H, W).
        targets: int64 (N,).
    """

    def __init__(self, pixels: Tensor, targets: Tensor, transform: TrainTransform, seed: int) -> None:
        self._pixels, self._targets, self._transform, self._seed = pixels, targets, transform, seed

    def __call__(self, request: Request) -> tuple[Tensor, Tensor]:
        """The samples' uint8 images (B, C, height, width) and classes (B,)."""
        drawn = keys(self._seed, request.epoch, request.indices, Purpose.TRANSFORM)
        sources = self._there(request.indices % len(self._targets))
        return self.transformed(self._pixels.index_select(0, sources), drawn), self._targets.index_select(0, sources)

    def transformed(self, images: Tensor, drawn: Keys) -> Tensor:
        """Images (B, C, H, W), each by the numbers of its key."""
        transform = self._transform
        numbers = transform.numbers(drawn)
        height, width = images.shape[2:]
        shape = transform.image_size[1] / transform.image_size[0]
        boxes = [crop_box((width, height), shape, transform.min_crop, row) for row in numbers.tolist()]
        crops = resized_crops(
            images,
            self._there(np.array(boxes, np.int64)),
            transform.image_size,
            self._there(transform.is_bicubic(numbers)),
        )
        flipped = self._there(transform.is_flipped(numbers)).view(-1, 1, 1, 1)
        return torch.where(flipped, crops.flip(3), crops)

    def _there(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(self._pixels.device, non_blocking=True)


def resident(images: ImageSet, transform: TrainTransform, seed: int, device: torch.device) -> ResidentImages | None:
    """The images on the device, or None where they cannot be there.

    They have to be of one size and to fit `MOST_BYTES`; the transform has to be crop, resize and flip alone; and a few
    samples have to come out as the processor's do, to the bit, with the Pillow that is installed.
    """
    if not transform.is_geometric or len(images) == 0:
        return None
    first = np.asarray(images.read(0))
    if first.nbytes * len(images) > MOST_BYTES:
        return None
    pixels = np.empty((len(images), *first.shape), np.uint8)
    for index in range(len(images)):
        image = np.asarray(images.read(index))
        if image.shape != first.shape:
            return None
        pixels[index] = image
    planes = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    there = torch.from_numpy(np.ascontiguousarray(planes)).to(device)
    made = ResidentImages(there, torch.from_numpy(images.targets).to(device), transform, seed)
    return made if _agrees(made, pixels, transform, there) else None


def _agrees(made: ResidentImages, pixels: NDArray[np.uint8], transform: TrainTransform, there: Tensor) -> bool:
    count = min(_COMPARED, len(pixels))
    drawn = keys(0, 0, range(count), Purpose.TRANSFORM)
    ours = made.transformed(there[:count], drawn).cpu()
    theirs = [transform(Image.fromarray(pixels[i]), int(drawn[i])) for i in range(count)]
    return torch.equal(ours, torch.stack(theirs))
