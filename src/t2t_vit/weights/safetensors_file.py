"""Files of safetensors, read by its own library."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from t2t_vit.errors import UserError

# The library spends several times the header on its table; the largest network's has 40 kB.
_LONGEST_HEADER = 4 * 2**20
_KEY = "t2t_vit"


def read_safetensors_file(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name, on the CPU.

    Raises:
        UserError: the file is damaged, or its header is absurd.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with Path(path).open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _LONGEST_HEADER:
            raise ValueError(f"its header has {header:,} bytes")
        found = load_file(path)
        if not all(name.isprintable() for name in found):
            raise ValueError("a name is no text")
        return found
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
        reason = "".join(letter if letter.isprintable() else " " for letter in str(error)[:120])
        raise UserError(f"{path}: is a damaged safetensors file, cut short perhaps ({reason})") from error


def read_safetensors_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_safetensors_file` wrote; empty where there are none that we know."""
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _LONGEST_HEADER))
    try:
        metadata = json.loads(json.loads(header)["__metadata__"][_KEY])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return metadata if type(metadata) is dict else {}


def write_safetensors_file(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the tensors, and, in JSON, the metadata.

    Raises:
        UserError: the file cannot be written.
    """
    from safetensors.torch import save

    from t2t_vit.files import atomic_write

    ours = {_KEY: json.dumps(metadata)} if metadata else {}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt", **ours})
    with atomic_write(Path(path)) as file:
        file.write(content)
