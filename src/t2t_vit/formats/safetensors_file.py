"""Files of safetensors, one or several with an index, read by the format's own library."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from t2t_vit.errors import UserError, printable
from t2t_vit.files import atomic_write, open_regular, parse_json, read_at_most

# The library spends several times the header on its table; the largest network's has 40 kB. The files of an index
# share the limit.
_LONGEST_HEADER = 4 * 2**20
_MOST_DIMS = 16
_KEY = "t2t_vit"


def read_safetensors_file(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name, on the CPU; their values are the file's until they are copied.

    Raises:
        UserError: the file is damaged, or its header is absurd.
    """
    return _read(path, None, _LONGEST_HEADER)[0]


def _read(path: str | Path, wanted: Collection[str] | None, longest: int) -> tuple[dict[str, Tensor], int]:
    """The tensors called `wanted`, all where it is None, and the bytes of the header, `longest` at most.

    Raises:
        UserError: as of `read_safetensors_file`, or a tensor is missing.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(path) as file:
            header = int.from_bytes(file.read(8), "little")
        if header > longest:
            raise ValueError(f"its header has {header:,} bytes; {longest:,} are allowed")
        with safe_open(path, framework="pt") as content:
            there = dict.fromkeys(content.keys())
            if not all(name.isprintable() for name in there):
                raise ValueError("a name is not text")
            names = list(there if wanted is None else wanted)
            if missing := [name for name in names if name not in there]:
                raise ValueError(f"it lacks {missing[0][:80]}, which its index says it holds")
            found = {}
            for name in names:
                found[name] = tensor = content.get_tensor(name)
                if tensor.ndim > _MOST_DIMS:
                    raise ValueError(f"a tensor has {tensor.ndim:,} dimensions")
            return found, header
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError, RuntimeError, TypeError) as error:
        reason = printable(str(error)[:120])
        raise UserError(f"{path}: is a damaged or truncated safetensors file ({reason})") from error


def read_sharded_safetensors(index: Path) -> dict[str, Tensor]:
    """The tensors of the files that `index`, a `model.safetensors.index.json`, names.

    Raises:
        UserError: it is no such index, names a file outside its folder or a missing one, or a file lacks a tensor.
    """
    try:
        places = parse_json(read_at_most(index, _LONGEST_HEADER))["weight_map"]
        if not (type(places) is dict and all(type(name) is str and type(file) is str for name, file in places.items())):
            raise ValueError("no names and files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{index}: is not an index of safetensors files: it has no weight_map of names and files"
        ) from error
    files: dict[str, list[str]] = {}
    for name, file in places.items():
        files.setdefault(file, []).append(name)
    found: dict[str, Tensor] = {}
    left = _LONGEST_HEADER
    for file, names in sorted(files.items()):
        if Path(file).name != file or not file.isprintable():
            raise UserError(f"{index}: names a file that is not in its folder ({ascii(file)[:80]})")
        if not (index.parent / file).is_file():
            raise UserError(f"{index}: {file} is missing from its folder; download all of its files")
        held, header = _read(index.parent / file, names, left)
        left -= header
        found |= held
    return found


def read_own_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_safetensors_file` wrote; empty where there are none that we know."""
    text = read_safetensors_metadata(path, _KEY)
    try:
        metadata = parse_json(text or "")
    except ValueError:
        return {}
    return metadata if type(metadata) is dict else {}


def read_safetensors_metadata(path: str | Path, key: str) -> str | None:
    """A text in the file's header; None where there is none.

    Raises:
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _LONGEST_HEADER))
    try:
        text = parse_json(header)["__metadata__"][key]
    except (ValueError, KeyError, TypeError):
        return None
    return text if type(text) is str else None


def write_safetensors_file(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the tensors, and, in JSON, the metadata.

    Raises:
        UserError: the file cannot be written.
    """
    parts = safetensors_parts(tensors, metadata)
    with atomic_write(Path(path), size=sum(map(len, parts))) as file:
        file.writelines(parts)


def safetensors_parts(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None, *, texts: Mapping[str, str] | None = None
) -> tuple[bytes, memoryview]:
    """The bytes of such a file, head and tensors: joined they would be in memory twice.

    `texts` are further entries of its header. Equal tensors and texts give equal bytes.
    """
    from safetensors.torch import save

    entries = {"format": "pt", **({_KEY: json.dumps(metadata)} if metadata else {}), **(texts or {})}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(content[:8], "little")
    # The library writes these entries in an order that changes from call to call.
    header = {"__metadata__": entries, **json.loads(content[8 : 8 + length])}
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head, memoryview(content)[8 + length :]
