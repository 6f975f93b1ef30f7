"""What an exported file says about itself, so that it can be run with nothing beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import t2t_vit
from t2t_vit.data.preprocessing import Preprocessing

INPUT = "images"
OUTPUT = "logits"


@dataclass(frozen=True)
class OnnxMetadata:
    """The strings in an ONNX file's `metadata_props`: `arch`, `preprocessing` and `classes` in JSON, `producer`."""

    arch: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None

    def to_strings(self) -> dict[str, str]:
        """Keys and values as they stand in the file."""
        return {
            "producer": f"t2t_vit {t2t_vit.__version__}",
            "arch": self.arch,
            "preprocessing": json.dumps(self.preprocessing.to_dict()),
            "classes": json.dumps(self.classes, ensure_ascii=False),
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> Self:
        """The inverse of `to_strings`.

        Raises:
            ValueError: a key is missing, or its content is not what `to_strings` writes.
        """
        try:
            classes = json.loads(strings["classes"])
            preprocessing = Preprocessing.from_dict(json.loads(strings["preprocessing"]))
            return cls(strings["arch"], preprocessing, tuple(classes) if classes else None)
        except (KeyError, TypeError) as error:
            raise ValueError(f"metadata without {error}") from error
