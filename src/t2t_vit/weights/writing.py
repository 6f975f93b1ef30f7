"""Weights -> a file in one of three formats."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write
from t2t_vit.formats.safetensors_file import write_safetensors_file
from t2t_vit.weights.mindspore_file import write_mindspore_file
from t2t_vit.weights.reading import Weights, Which, read_weights

Format = Literal["mindspore", "safetensors", "torch"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDINGS: Mapping[str, Format] = {
    ".ckpt": "mindspore",
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".tar": "torch",  # .pth.tar, as the authors name theirs
    ".bin": "torch",
}


def convert_weights(
    source: str | Path, target: str | Path, *, format: str | None = None, which: Which = "auto"
) -> tuple[Weights, Format]:
    """Write the weights of `source` as `target`, values untouched: only names and the file around them change.

    A file that is there already is replaced, once the new one is whole.

    Args:
        source: anything that `read_weights` takes.
        target: the new file, or, without `format`, a name whose ending says it.
        format: "mindspore" (names and shapes of MindSpore), "safetensors" or "torch" (a bare state dict).
        which: "ema" or "raw" to insist on one of two copies.

    Returns:
        What was read, and the format written.

    Raises:
        UserError: the source cannot be read, the target not be written, or its format is not known.
    """
    chosen = _format(target, format)
    if Path(target).is_dir():
        raise UserError(f"{target}: is a folder; give the file to write")
    weights = read_weights(source, which)
    tensors = dict(weights.tensors)
    if chosen == "mindspore":
        write_mindspore_file(tensors, target)
    elif chosen == "safetensors":
        write_safetensors_file(tensors, target)
    else:
        _write_torch_file(tensors, target)
    return weights, chosen


def _format(target: str | Path, asked: str | None) -> Format:
    if asked is not None:
        for known in FORMATS:
            if asked == known:
                return known
        raise UserError(f"format '{asked}' is not known; choose one of {', '.join(FORMATS)}")
    ending = Path(target).suffix.lower()
    if ending not in _ENDINGS:
        raise UserError(
            f"{target}: its ending does not give a format; end it in {', '.join(_ENDINGS)}, or add --format "
            f"{'|'.join(FORMATS)}"
        )
    return _ENDINGS[ending]


def _write_torch_file(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    content = BytesIO()  # on a full disk torch's own writer has no error that says so
    torch.save({name: _without_neighbours(tensor) for name, tensor in tensors.items()}, content)
    with atomic_write(Path(path), size=content.getbuffer().nbytes) as file:
        file.write(content.getbuffer())


def _without_neighbours(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of a view: torch writes the whole storage of each, whatever else is in it."""
    is_whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor.detach() if is_whole else tensor.detach().clone()
