"""What a weights file holds, as a page of text."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.model.inputs import size_of
from t2t_vit.tables import plain, table_lines
from t2t_vit.weights.description import describe
from t2t_vit.weights.reading import Weights, Which, read_weights

_NAMES = {
    "torch": "torch.save",
    "safetensors": "safetensors",
    "mindspore": "MindSpore",
    "safetensors index": "safetensors, several files",
}
_MOST_CLASSES = 8
_LONGEST = 200  # letters of a tensor's name
_MOST_TENSORS = 5_000  # t2t_vit_24 has 300; of a hundred thousand the table alone would take half a minute


def shown(path: str | Path, which: Which = "auto") -> str:
    """Kind, copies, network, configuration, each tensor with shape and type, and how many numbers they are.

    Raises:
        UserError: the file is no weights file.
    """
    weights = read_weights(path, which)
    numbers = sum(tensor.numel() for tensor in weights.tensors.values())
    size = sum(tensor.nbytes for tensor in weights.tensors.values())
    lines = [
        f"file       {weights.path} ({weights.path.stat().st_size:,} bytes)",
        f"kind       {_NAMES.get(weights.kind, weights.kind)}",
        f"copies     {', '.join(weights.copies)}; shown is {weights.chosen}",
        f"network    {_network(weights)}",
        *_about(weights),
        f"tensors    {len(weights.tensors)}, {numbers:,} numbers, {size:,} bytes",
        *_table(weights),
    ]
    return "\n".join(map(plain, lines))


def _network(weights: Weights) -> str:
    config = weights.config or {}
    try:
        found = describe(weights.tensors, weights.path, config.get("arch"))
    except UserError as error:
        return f"not known: {str(error).removeprefix(f'{weights.path}: ')}"
    parts = [found.arch if config.get("arch") else " or ".join(found.fitting)]
    parts.append("no head" if found.num_classes is None else f"{found.num_classes} classes")
    parts.append(f"{found.in_chans} channels")
    size = _image_size(config)
    if size:
        parts.append(f"{size[0]} x {size[1]} pixels")
    elif found.image_size:
        parts.append(
            f"{found.image_size[0]} x {found.image_size[1]} pixels (from the number of positions; others also fit)"
        )
    return ", ".join(parts)


def _image_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) that the configuration beside the weights names, if it does."""
    try:
        return size_of(config["image_size"])
    except (KeyError, TypeError, UserError):
        return None


def _about(weights: Weights) -> Iterable[str]:
    if weights.config:
        yield "config     " + ", ".join(f"{key}: {value}" for key, value in weights.config.items())
    if weights.unread:
        yield "not read   " + ", ".join(weights.unread)
    if weights.classes:
        more = f", ... ({len(weights.classes)})" if len(weights.classes) > _MOST_CLASSES else ""
        yield "classes    " + ", ".join(weights.classes[:_MOST_CLASSES]) + more
    if weights.state:
        some = ", ".join(weights.state[:_MOST_CLASSES])
        more = f", ... ({len(weights.state)})" if len(weights.state) > _MOST_CLASSES else ""
        yield f"state      {some}{more}"


def _table(weights: Weights) -> Iterable[str]:
    rows = [
        [
            name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…",
            " x ".join(map(str, tensor.shape)) or "single",
            str(tensor.dtype).removeprefix("torch."),
        ]
        for name, tensor in islice(weights.tensors.items(), _MOST_TENSORS)
    ]
    yield from (f"  {line}" for line in table_lines((), rows, left=(0, 1, 2)))
    if more := len(weights.tensors) - len(rows):
        yield f"  ... and {more:,} more"
