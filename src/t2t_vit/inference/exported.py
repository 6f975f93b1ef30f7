"""What all exported files have in common, whatever runs them: their metadata and their predictor."""

import json
import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import ProgramError, UserError, printable
from t2t_vit.files import parse_json
from t2t_vit.inference.predictor import Predictor
from t2t_vit.version import __version__

ExportPrecision = Literal["fp32", "fp16", "int8"]
# Keys whose JSON is the value itself, and its type.
_PLAIN = {"num_classes": int, "batch": int, "dynamic_size": bool, "normalised_inside": bool}

_RANGES = {"num_classes": (1, 1_000_000), "batch": (0, 65_536)}
_LARGEST_INPUT = 2**32  # bytes of the float32 images of a call
_MOST_PIXELS = 2**24  # of an image: attention grows with the square of the number of tokens


@dataclass(frozen=True)
class Metadata:
    """What every format carries as strings under the names of these attributes, lists and numbers in JSON.

    Attributes:
        arch: the network's name.
        preprocessing: how an image becomes the network's input.
        classes: names in the order of the logits, or None.
        num_classes: length of the logits.
        precision: of the weights and products inside; input and output are float32 whatever it is.
        batch: images that a call takes, exactly; 0 where any number is.
        dynamic_size: whether images of other sizes than the preprocessing's are taken.
        normalised_inside: the file takes uint8 pixels and normalises them itself; otherwise it takes float32,
            normalised.
    """

    arch: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None = None
    num_classes: int = 0
    precision: ExportPrecision = "fp32"
    batch: int = 0
    dynamic_size: bool = False
    normalised_inside: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The configuration keys that the file decides, as a checkpoint's configuration holds them."""
        size = self.preprocessing.image_size
        return {
            "arch": self.arch,
            "num_classes": self.num_classes,
            "image_size": size[0] if size[0] == size[1] else list(size),
            "in_chans": self.preprocessing.in_chans,
            "crop_pct": self.preprocessing.crop_pct,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
        }

    def to_strings(self) -> dict[str, str]:
        """Keys and values as they stand in the file."""
        return {
            "producer": f"t2t_vit {__version__}",
            "arch": self.arch,
            "num_classes": str(self.num_classes),
            "preprocessing": json.dumps(self.preprocessing.to_dict()),
            "classes": json.dumps(self.classes),
            "precision": self.precision,
            "batch": str(self.batch),
            "dynamic_size": json.dumps(self.dynamic_size),
            "normalised_inside": json.dumps(self.normalised_inside),
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> Self:
        """The inverse of `to_strings`.

        Raises:
            ValueError: a key is missing, or its content is not what `to_strings` writes.
        """
        try:
            read = {key: parse_json(strings[key]) for key in ("preprocessing", "classes", *_PLAIN)}
            classes, precision = read.pop("classes"), strings["precision"]
            if classes is not None and not (type(classes) is list and all(type(name) is str for name in classes)):
                raise ValueError("metadata whose classes are not names")
            if precision not in get_args(ExportPrecision) or any(
                type(read[key]) is not kind for key, kind in _PLAIN.items()
            ):
                raise ValueError("metadata of another version")
            for key, (least, most) in _RANGES.items():
                if not least <= read[key] <= most:
                    raise ValueError(f"metadata whose {key} is not in {least} to {most:,}")
            if classes and len(classes) != read["num_classes"]:
                raise ValueError(f"metadata with {len(classes):,} names of {read['num_classes']:,} classes")
            preprocessing = Preprocessing.from_dict(read.pop("preprocessing"))
            pixels = preprocessing.image_size[0] * preprocessing.image_size[1]
            if pixels > _MOST_PIXELS or 4 * pixels * preprocessing.in_chans * read["batch"] > _LARGEST_INPUT:
                raise ValueError(f"metadata whose image_size is {preprocessing.image_size} and batch {read['batch']}")
            return cls(
                arch=strings["arch"],
                preprocessing=preprocessing,
                classes=tuple(classes) if classes else None,
                precision=cast(ExportPrecision, precision),
                **read,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"metadata without {error}") from error


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
            answers.append(self._checked(filled)[: len(part)])
        return torch.cat(answers)  # (B, num_classes)

    def _checked(self, inputs: Tensor) -> Tensor:
        """What the file answers, if it is logits of these images."""
        try:
            logits = self.run(inputs)
        except UserError:
            raise
        except Exception as error:  # each runtime has classes of its own
            reason = printable(" ".join(str(error).split()))[:200]
            raise ProgramError(f"{self.path}: holds a program that fails on images ({reason})") from error
        if logits.shape != (len(inputs), self.num_classes) or not logits.is_floating_point():
            raise ProgramError(
                f"{self.path}: answers {len(inputs)} images with {logits.dtype} of the shape {tuple(logits.shape)}, "
                f"and not with {self.num_classes} logits each"
            )
        return logits.float()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence other packages: no warnings and no log lines up to warnings inside the block; errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
