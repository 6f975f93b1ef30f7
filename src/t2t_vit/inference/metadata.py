"""What an exported file says about itself, so that it can be run with nothing beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.version import __version__

INPUT = "images"
OUTPUT = "logits"

Precision = Literal["fp32", "fp16", "int8"]


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
    precision: Precision = "fp32"
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
            read = {key: json.loads(strings[key]) for key in ("preprocessing", "classes", *_PLAIN)}
            classes, precision = read.pop("classes"), strings["precision"]
            if classes is not None and not (type(classes) is list and all(type(name) is str for name in classes)):
                raise ValueError("metadata whose classes are no names")
            if precision not in get_args(Precision) or any(type(read[key]) is not kind for key, kind in _PLAIN.items()):
                raise ValueError("metadata of another version")
            preprocessing = Preprocessing.from_dict(read.pop("preprocessing"))
            named = tuple(classes) if classes and len(classes) == read["num_classes"] else None
            return cls(
                arch=strings["arch"],
                preprocessing=preprocessing,
                classes=named,
                precision=cast(Precision, precision),
                **read,
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"metadata without {error}") from error


_PLAIN = {"num_classes": int, "batch": int, "dynamic_size": bool, "normalised_inside": bool}
