"""Files of safetensors, read by its own library."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.files import parse_json

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


def read_sharded_safetensors(index: Path) -> dict[str, Tensor]:
    """The tensors of the files that `index`, a `model.safetensors.index.json`, names.

    Raises:
        UserError: it is no such index, names a file outside its folder or a missing one, or a file lacks a tensor.
    """
    try:
        if index.stat().st_size > _LONGEST_HEADER:
            raise ValueError("too long")
        places = parse_json(index.read_bytes())["weight_map"]
        if not (type(places) is dict and all(type(name) is str and type(file) is str for name, file in places.items())):
            raise ValueError("no names and files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: is no index of safetensors files: no weight_map of names and files") from error
    found: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file or not file.isprintable():
            raise UserError(f"{index}: names a file that is not in its folder ({ascii(file)[:80]})")
        if not (index.parent / file).is_file():
            raise UserError(f"{index}: {file} is missing in its folder; fetch all of its files")
        held = read_safetensors_file(index.parent / file)
        wanted = [name for name, place in places.items() if place == file]
        if missing := [name for name in wanted if name not in held]:
            raise UserError(f"{index}: {file} lacks {missing[0][:80]}, and so they do not belong together")
        found |= {name: held[name] for name in wanted}
    return found


def read_safetensors_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_safetensors_file` wrote; empty where there are none that we know."""
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _LONGEST_HEADER))
    try:
        metadata = parse_json(parse_json(header)["__metadata__"][_KEY])
    except (ValueError, KeyError, TypeError):
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
