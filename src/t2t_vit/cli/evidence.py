"""Real images for an export: to compare the file with the network on, and to measure int8's ranges on."""

from collections.abc import Callable

import torch
from torch import Tensor

from t2t_vit.cli import assembly
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.embedded import fashion_mnist
from t2t_vit.data.images import ImageSet
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.export.write import Evidence
from t2t_vit.inference.metadata import Precision
from t2t_vit.settings.schema import Config

COMPARED: dict[Precision, int] = {"fp32": 12, "fp16": 100}
# int8 is judged by its answers, of which it takes many: 2,000 small pictures, at least 200 large ones.
INT8_PIXELS, INT8_MOST, INT8_LEAST = 2000 * 64 * 64, 2000, 200

Note = Callable[[str], None]
Pair = tuple[Tensor, Tensor | None]


def gather(
    config: Config,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    *,
    precision: Precision,
    calibration: int,
    data_is_named: bool,
    note: Note,
) -> Evidence:
    """Of the validation images if there are any, else embedded ones; to calibrate on, training images if there are.

    Args:
        classes: of the network; the images' own count only where they are the same.
        data_is_named: a missing data set is the user's mistake, and not made up for by embedded images.

    Raises:
        UserError: no image can be read.
    """
    count = _compared(precision, preprocessing)
    images, training = _sets(config, preprocessing, data_is_named, note)
    compared, targets = real_images(images, preprocessing, count)
    known = targets if classes is not None and tuple(images.classes) == classes else None
    if precision != "int8":
        return Evidence(compared, known)
    note(f"int8: measured on {calibration} images, compared on {len(compared):,}")
    return Evidence(compared, known, real_images(training(), preprocessing, calibration)[0])


def real_images(images: ImageSet, preprocessing: Preprocessing, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` images, uint8 (N, C, H, W), and their classes (N,); broken ones are left out.

    Raises:
        UserError: all of them are broken.
    """
    read: list[Tensor] = []
    targets: list[int] = []
    for number in assembly.some_images(images, count):
        try:
            read.append(preprocessing(images.read(number)))
            targets.append(int(images.targets[number]))
        except DecodeError as error:
            reason = f"{images.name(number)}: {error}"
    if not read:
        raise UserError(f"no validation image to compare on can be read: {reason}")
    return torch.stack(read), torch.tensor(targets)


def _compared(precision: Precision, preprocessing: Preprocessing) -> int:
    if precision in COMPARED:
        return COMPARED[precision]
    height, width = preprocessing.image_size
    return min(INT8_MOST, max(INT8_LEAST, INT8_PIXELS // (height * width)))


def _sets(
    config: Config, preprocessing: Preprocessing, named: bool, note: Note
) -> tuple[ImageSet, Callable[[], ImageSet]]:
    """The images to compare on, and those to calibrate on, which are opened only where they are asked for."""
    try:
        if config.dataset != "ImageNet" or config.data_url:
            images = assembly.validation_images(config)
            return images, lambda: _training_images(config, images)
    except UserError as error:
        if named:
            raise
        note(f"compared on embedded images, since {error}")
    mode = preprocessing.mode
    return fashion_mnist("val", mode), lambda: fashion_mnist("train", mode)


def _training_images(config: Config, otherwise: ImageSet) -> ImageSet:
    try:
        return assembly.training_images(config, lambda _: None)[0]
    except UserError:
        return otherwise
