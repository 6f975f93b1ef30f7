"""Tensors of a file of torch.save, mapped into memory where they lie."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.formats.plain_pickle import Global
from t2t_vit.formats.torch_archive import ITEM_BYTES, StoredTensor, TorchFile

Copy = Literal["ema", "raw"]
# Where training programs put the weights, and which of the two kinds they are; the first that is there is taken.
FOREIGN_HOMES: tuple[tuple[str, Copy], ...] = (
    ("state_dict_ema", "ema"),
    ("ema_state_dict", "ema"),
    ("model_ema", "ema"),
    ("state_dict", "raw"),
    ("net", "raw"),
    ("model", "raw"),
)
_LONGEST_NAME = 512
# Lists and dictionaries may hold each other many times over: what is followed has to have an end.
_MOST_VALUES, _DEEPEST = 1_000_000, 32


def tensors_of(file: TorchFile, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors, on the CPU. Parts of the file that are not asked for (an optimizer's state) cost nothing.

    Raises:
        UserError: they are damaged, or claim more elements than the file has.
    """
    _check(file, list(stored.values()))
    return {name: _tensor(file, tensor) for name, tensor in stored.items()}


def content_of(file: TorchFile) -> Any:
    """All of the file's content, its tensors in memory of their own and bit for bit as they were saved.

    Raises:
        UserError: it is damaged, nested without end, or claims more elements than the file has.
    """
    _check(file, _stored(file))
    return _with_tensors(file, file.content)


def foreign_copies(file: TorchFile) -> dict[Copy, Callable[[], Mapping[str, Tensor]]]:
    """The weights that another program's file holds, to be read when they are asked for, the preferred copy first.

    Raises:
        UserError: it holds none.
    """
    content = file.content
    homes = content if type(content) is dict else {}
    found = {key: stored for key, _ in FOREIGN_HOMES if (stored := state_dict_in(homes.get(key)))}
    copies: dict[Copy, Callable[[], Mapping[str, Tensor]]] = {}
    for key, kind in FOREIGN_HOMES:
        if key in found and kind not in copies:
            copies[kind] = reader_of(file, found[key])
    if not copies and (bare := state_dict_in(content)):
        copies["raw"] = reader_of(file, bare)
    if not copies:
        homes_named = ", ".join(f"'{key}'" for key, _ in FOREIGN_HOMES)
        raise UserError(f"{file.path}: holds no weights: neither {homes_named} nor a bare state dict of tensors")
    return copies


def reader_of(file: TorchFile, stored: Mapping[str, StoredTensor]) -> Callable[[], Mapping[str, Tensor]]:
    """`tensors_of`, for later."""
    return lambda: tensors_of(file, stored)


def state_dict_in(content: Any) -> dict[str, StoredTensor] | None:
    """`content` if it is names and tensors, else None."""
    if type(content) is not dict or not content:
        return None
    is_one = all(
        type(name) is str and 0 < len(name) <= _LONGEST_NAME and name.isprintable() and type(tensor) is StoredTensor
        for name, tensor in content.items()
    )
    return content if is_one else None


def _check(file: TorchFile, stored: list[StoredTensor]) -> None:
    # Tensors may share a storage, but all together they cannot be larger than the file.
    if sum(tensor.nbytes for tensor in stored) > len(file.buffer):
        raise UserError(f"{file.path}: its tensors claim to be larger than the file")
    file.check({tensor.storage.key for tensor in stored})


def _stored(file: TorchFile) -> list[StoredTensor]:
    """The tensors anywhere in the content."""
    found: list[StoredTensor] = []
    pending, count = [(file.content, 0)], 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise UserError(f"{file.path}: its values are nested without end")
        if type(value) is StoredTensor:
            found.append(value)
        elif type(value) in (dict, list, tuple):
            pending += [(item, depth + 1) for item in (value.values() if type(value) is dict else value)]
    return found


def _with_tensors(file: TorchFile, value: Any) -> Any:
    if type(value) is StoredTensor:
        return _tensor(file, value).clone()
    if type(value) is Global:  # the pickle reader admits no other names than those of torch's types
        return getattr(torch, value.name, None)
    if type(value) is dict:
        return {key: _with_tensors(file, item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_tensors(file, item) for item in value)
    return value


def _tensor(file: TorchFile, stored: StoredTensor) -> Tensor:
    start = file.place(stored)
    dtype = getattr(torch, stored.dtype)
    if stored.nbytes == 0:
        return torch.empty(stored.shape, dtype=dtype)
    size = ITEM_BYTES[stored.dtype]
    last = stored.offset + sum((side - 1) * step for side, step in zip(stored.shape, stored.stride, strict=True))
    flat = torch.frombuffer(file.buffer, dtype=torch.uint8, count=(last + 1) * size, offset=start)
    if start % size:
        flat = flat.clone()  # old streams align nothing
    return flat.view(dtype).as_strided(stored.shape, stored.stride, stored.offset)
