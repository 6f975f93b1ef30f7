"""`config.json` of a folder in the layout of the Hugging Face hub: what it says of a network.

It is read and written here alone. Three dialects are understood: timm's, which is ours (`architecture`, `model_args`,
`pretrained_cfg`), the flat keys of a checkpoint's configuration (`arch`, `image_size`), and what transformers calls
classes (`id2label`).
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from t2t_vit.errors import UserError
from t2t_vit.files import read_json, reason_of
from t2t_vit.formats.safetensors_file import read_safetensors_metadata
from t2t_vit.model.head import GlobalPool
from t2t_vit.model.inputs import PositionPolicy
from t2t_vit.tables import plain

CONFIG = "config.json"
SAVED = "t2t_vit_saved"
_LONGEST = 1 << 22  # bytes; the names of 21,000 classes are some 600,000
_MOST = 8192  # channels and pixels of a side; classes may be more
_MOST_CLASSES = _MOST << 8
# Keys that say nothing of the answers of a network: notes, sources, and what is counted off the rest.
_IDLE = frozenset({
    "num_features", "library_name", "label_descriptions", "label2id", "model_type", "architectures", "torch_dtype",
    "dtype", "transformers_version", "problem_type", "_name_or_path", "tags", "license", "pool_size",
})  # fmt: skip
_IDLE_OF_PRETRAINED = frozenset({
    "url", "file", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "custom_load", "test_input_size",
    "min_input_size", "fixed_input_size", "test_crop_pct", "label_offset", "label_descriptions", "pool_size",
    "test_pool_size", "first_conv", "classifier", "license", "description", "origin_url", "paper_name", "paper_ids",
    "notes", "state_dict", "num_features",
})  # fmt: skip
# Drop rates of a training, which a network that is opened does not have.
_IDLE_OF_ARGUMENTS = frozenset({"drop_rate", "drop_path_rate", "drop_block_rate", "drop", "drop_path", "drop_block"})

Form = Callable[[Any], Any]


@dataclass(frozen=True)
class FolderConfig:
    """What a `config.json` says; None where it says nothing.

    Attributes:
        arch, num_classes, in_chans, image_size, global_pool, approximate_gelu, other_sizes, performer_drop: arguments
            of `T2TViT`.
        crop_pct, mean, std, interpolation, crop_mode: the preprocessing, in timm's words.
        classes: names in the order of the logits.
        unread: keys that have no meaning here, and could have one elsewhere.
        saved: what the weights that it was saved with say as well.
    """

    arch: str | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    image_size: tuple[int, int] | None = None
    global_pool: GlobalPool | None = None
    approximate_gelu: bool | None = None
    other_sizes: PositionPolicy | None = None
    performer_drop: float | None = None
    crop_pct: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_mode: str | None = None
    classes: tuple[str, ...] | None = None
    unread: tuple[str, ...] = ()
    saved: str | None = field(default=None, compare=False)

    def flat(self) -> dict[str, Any]:
        """The same under the keys of a checkpoint's configuration, without what it does not say."""
        said = {name: value for name, value in vars(self).items() if value is not None and name not in _NOT_FLAT}
        if self.approximate_gelu is not None:
            said["disable_approximate_gelu"] = not self.approximate_gelu
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}

    def to_json(self, num_features: int, grid: tuple[int, int]) -> dict[str, Any]:
        """The file's content, of a network of that width and grid; timm opens it, too."""
        assert self.image_size is not None
        arguments = {
            "global_pool": self.global_pool,
            "approximate_gelu": self.approximate_gelu,
            "performer_drop": self.performer_drop,
            "other_sizes": self.other_sizes,  # where it is None timm's own default stays
        }
        return {
            "architecture": self.arch,
            "num_classes": self.num_classes,
            "num_features": num_features,
            "global_pool": self.global_pool,
            **({"label_names": list(self.classes)} if self.classes else {}),
            "model_args": {name: value for name, value in arguments.items() if value is not None},
            "pretrained_cfg": {
                "crop_pct": self.crop_pct,
                "mean": self.mean,
                "std": self.std,
                "interpolation": self.interpolation,
                "crop_mode": self.crop_mode,
                "input_size": [self.in_chans, *self.image_size],
                "num_classes": self.num_classes,
                # The first layer is no convolution, so timm cannot fit it to other channels: it is not told of it.
                "first_conv": None,
                "fixed_input_size": True,
                "classifier": "head",
                "pool_size": list(grid),
            },
            "library_name": "t2t_vit",
            **({SAVED: self.saved} if self.saved else {}),
        }


_NOT_FLAT = frozenset({"approximate_gelu", "classes", "unread", "saved"})


def check_saved_together(folder: str | Path, config: FolderConfig, weights: Path) -> None:
    """Refuse weights that were saved with another `config.json`, which a save that was killed may leave.

    What says nothing of it, since another program wrote it, is taken as it is.

    Raises:
        UserError: `weights`, of `folder`, were saved with another one, or cannot be read.
    """
    try:
        mark = None if config.saved is None else read_safetensors_metadata(weights, SAVED)
    except OSError as error:
        raise UserError(f"{weights}: cannot be read ({reason_of(error)})") from error
    if mark is not None and mark != config.saved:
        raise UserError(
            f"{folder}: its {CONFIG} and {weights.name} were not saved together: a save was interrupted or is under "
            "way, or one of them was copied; save the network again, or, where they do belong together, remove "
            f"{SAVED} from {CONFIG}"
        )


def read_folder_config(path: Path) -> FolderConfig:
    """What the file `path` says.

    Raises:
        UserError: it is no JSON object, a value is none that its key can have, two places contradict each other, or an
            argument of the network's is not known.
    """
    try:
        found = read_json(path, _LONGEST)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is not an object of keys and values")
    return _Reader(path, found).read()


class _Reader:
    """One file: a value is looked for in the places that may hold it, the one that counts most first."""

    def __init__(self, path: Path, found: Mapping[str, Any]) -> None:
        self.path, self.top = path, found
        self.arguments, self.pretrained = self._object("model_args"), self._object("pretrained_cfg")
        self.asked: set[tuple[str, str]] = {("", "model_args"), ("", "pretrained_cfg")}

    def read(self) -> FolderConfig:
        size = self._input_size()
        said = {
            "arch": self._of("name", _text, ("", "arch"), ("", "architecture")),
            "num_classes": self._of(
                "count of classes",
                _whole(0, _MOST_CLASSES),
                ("", "num_classes"),
                ("", "num_labels"),
                ("model_args", "num_classes"),
                ("pretrained_cfg", "num_classes"),
                fallback=1,
            ),
            "in_chans": self._of("number of channels", _whole(1, _MOST), ("", "in_chans"), ("model_args", "in_chans")),
            "image_size": self._of(
                "side or height and width", _size, ("", "image_size"), ("", "img_size"), ("model_args", "img_size")
            ),
            "global_pool": self._of("pool", _one_of(GlobalPool), ("model_args", "global_pool"), ("", "global_pool")),
            "approximate_gelu": self._gelu(),
            "saved": self._of("text", _text, ("", SAVED)),
            "other_sizes": self._of(
                "policy", _one_of(PositionPolicy), ("model_args", "other_sizes"), ("", "other_sizes")
            ),
            "performer_drop": self._of("rate", _number(0, 1), ("model_args", "performer_drop"), ("", "performer_drop")),
        }
        for name, form in _PREPROCESSING.items():
            said[name] = self._of("value", form, ("", name), ("pretrained_cfg", name), fallback=1)
        if size is not None:
            said["in_chans"] = said["in_chans"] or size[0]
            said["image_size"] = said["image_size"] or size[1:]
        classes, misfits = self._classes(said["num_classes"])
        unread = (*misfits, *self._unread()) if said["arch"] is not None else ()
        return FolderConfig(**said, classes=classes, unread=unread)

    def _object(self, key: str) -> Mapping[str, Any]:
        value = self.top.get(key)
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{self.path}: is incomplete: {key} is not an object of keys and values")
        return value or {}

    def _at(self, place: tuple[str, str]) -> Any:
        self.asked.add(place)
        where, key = place
        return {"": self.top, "model_args": self.arguments, "pretrained_cfg": self.pretrained}[where].get(key)

    def _of(self, what: str, form: Form, *places: tuple[str, str], fallback: int = 0) -> Any:
        """The value of the first place that has one. Others have to agree, except for the last `fallback` places."""
        values: list[tuple[str, Any]] = []
        for number, place in enumerate(places):
            found = self._at(place)
            if found is None or (values and number >= len(places) - fallback):
                continue
            try:
                value = form(found)
            except (TypeError, ValueError, OverflowError):
                shown = json.dumps(found)[:80]
                raise UserError(
                    f"{self.path}: is out of range: {_named(place)} {shown} is not valid (expected: {what})"
                ) from None
            values.append((_named(place), value))
        if not values:
            return None
        for name, value in values[1:]:
            if value != values[0][1]:
                raise UserError(
                    f"{self.path}: contradicts itself: {values[0][0]} is {values[0][1]!r} and {name} is {value!r}"
                )
        return values[0][1]

    def _gelu(self) -> bool | None:
        tanh = self._of("yes or no", _flag, ("model_args", "approximate_gelu"), ("", "approximate_gelu"))
        exact = self._of("yes or no", _flag, ("", "disable_approximate_gelu"))
        if tanh is not None and exact is not None and tanh == exact:
            raise UserError(
                f"{self.path}: contradicts itself: approximate_gelu and disable_approximate_gelu are both {tanh}"
            )
        return tanh if exact is None else not exact

    def _input_size(self) -> tuple[int, int, int] | None:
        """timm's (channels, height, width)."""
        return self._of("channels, height and width", _chw, ("pretrained_cfg", "input_size"))

    def _classes(self, count: int | None) -> tuple[tuple[str, ...] | None, list[str]]:
        """Names of the classes, and the keys that hold names which are not those of the logits."""
        misfits: list[str] = []
        places = (("", "classes"), ("", "label_names"), ("pretrained_cfg", "label_names"), ("", "id2label"))
        for place in places:
            found = self._at(place)
            if not found:
                continue
            names = _names(found)
            if names is not None and count in (None, len(names)):
                for other in places:
                    self.asked.add(other)
                return names, misfits
            misfits.append(
                f"{_named(place)} (names of {len(found) if isinstance(found, list | dict) else 'no'} classes)"
            )
        return None, misfits

    def _unread(self) -> list[str]:
        """Keys without a meaning here.

        Raises:
            UserError: one of them is an argument of the network, which would be another without it.
        """
        rest = {
            where: [key for key in found if (where, key) not in self.asked and key not in idle]
            for where, found, idle in (
                ("", self.top, _IDLE),
                ("model_args", self.arguments, _IDLE_OF_ARGUMENTS),
                ("pretrained_cfg", self.pretrained, _IDLE_OF_PRETRAINED),
            )
        }
        if unknown := rest["model_args"]:
            keys = ", ".join(plain(key[:60]) for key in unknown[:5])
            raise UserError(f"{self.path}: model_args has {keys}, which no T2T-ViT accepts")
        return [plain(_named((where, key))[:60]) for where, keys in rest.items() for key in keys]


def _named(place: tuple[str, str]) -> str:
    return ".".join(filter(None, place))


def _names(found: Any) -> tuple[str, ...] | None:
    """A list of names, or an object from "0", "1", ... to names; None where it is neither."""
    if isinstance(found, dict):
        if not all(str(number) in found for number in range(len(found))):
            return None
        found = [found[str(number)] for number in range(len(found))]
    if not isinstance(found, list) or not all(type(name) in (str, int, float, bool) for name in found):
        return None
    names = tuple(map(str, found))
    return names if all(len(name) <= 1000 for name in names) else None


def _text(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= 100 or not value.isprintable():
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _whole(low: int, high: int) -> Form:
    def whole(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return whole


def _number(low: float, high: float) -> Form:
    def number(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError
        return float(value)

    return number


def _numbers(value: Any) -> tuple[float, ...]:
    if type(value) in (int, float):
        value = [value]
    if type(value) is not list or not 1 <= len(value) <= _MOST:
        raise ValueError
    if not all(type(item) in (int, float) and math.isfinite(item) for item in value):
        raise ValueError
    return tuple(map(float, value))


def _size(value: Any) -> tuple[int, int]:
    side = _whole(1, _MOST)
    if type(value) is int:
        return side(value), side(value)
    height, width = value
    return side(height), side(width)


def _chw(value: Any) -> tuple[int, int, int]:
    channels, height, width = map(_whole(1, _MOST), value)
    return channels, height, width


def _one_of(literal: Any) -> Form:
    def one_of(value: Any) -> Any:
        if type(value) is not str or value not in get_args(literal):
            raise ValueError
        return value

    return one_of


_PREPROCESSING: Mapping[str, Form] = {
    "crop_pct": _number(1e-3, 1),
    "mean": _numbers,
    "std": _numbers,
    "interpolation": _text,
    "crop_mode": _text,
}
