"""What a file of torch.save holds: weights of ours or of other programs, or a whole run."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from t2t_vit.errors import UserError

Copy = Literal["ema", "raw"]
# Where training programs put the weights, and which of the two kinds they are; the first that is there is taken.
FOREIGN_HOMES: tuple[tuple[str, Copy], ...] = (
    ("state_dict_ema", "ema"),
    ("ema_state_dict", "ema"),
    ("model_ema", "ema"),
    ("state_dict", "raw"),
    ("net", "raw"),
    ("model", "raw"),
    ("module", "raw"),  # DeepSpeed's
)
_LONGEST_NAME = 512
_SMALL = 64 * 2**20
# Lists and dictionaries may hold each other many times over: what is followed has to have an end.
_MOST_VALUES, _DEEPEST = 1_000_000, 32


def own_content(path: Path, content: Any) -> Any:
    """The content of a run's checkpoint with its tensors in memory of their own, bit for bit as they were saved.

    Raises:
        UserError: it is nested too deeply, or claims more elements than the file has.
    """
    claimed = sum(_claimed(tensor) for tensor in _tensors(path, content))
    if claimed > path.stat().st_size:  # tensors may share a storage, and one element may stand for many
        raise UserError(f"{path}: its tensors claim to be larger than the file")
    return _cloned(content)


def check_claims(path: Path, tensors: Iterable[Tensor]) -> None:
    """Refuse tensors whose copies would take far more memory than the file: one element may stand for any number.

    Tensors that are the same part of a storage, as tied weights are, count once.

    Raises:
        UserError: they claim more than twice the file's size and 64 MB.
    """
    distinct = {(one.data_ptr(), tuple(one.shape), one.stride()): _claimed(one) for one in tensors}
    claimed, size = sum(distinct.values()), path.stat().st_size
    if claimed > 2 * size + _SMALL:
        raise UserError(f"{path}: its tensors claim {claimed:,} bytes, and the file has {size:,}")


def _claimed(tensor: Tensor) -> int:
    """Bytes of a copy."""
    return math.prod(tensor.shape) * tensor.element_size()


def foreign_copies(path: Path, content: Any) -> dict[Copy, Mapping[str, Tensor]]:
    """The weights that another program's file holds, the preferred copy first.

    Raises:
        UserError: it holds none.
    """
    homes = content if isinstance(content, dict) else {}
    found = {key: stored for key, _ in FOREIGN_HOMES if (stored := state_dict_in(homes.get(key)))}
    copies: dict[Copy, Mapping[str, Tensor]] = {}
    for key, kind in FOREIGN_HOMES:
        if key in found and kind not in copies:
            copies[kind] = found[key]
    if not copies and (bare := state_dict_in(content)):
        copies["raw"] = bare
    if not copies:
        homes_named = ", ".join(f"'{key}'" for key, _ in FOREIGN_HOMES)
        raise UserError(f"{path}: holds no weights: neither {homes_named} nor a bare state dict of tensors")
    return copies


def state_dict_in(content: Any) -> dict[str, Tensor] | None:
    """`content` if it is names and tensors, else None."""
    if not isinstance(content, dict) or not content:
        return None
    is_one = all(
        type(name) is str and 0 < len(name) <= _LONGEST_NAME and name.isprintable() and isinstance(tensor, Tensor)
        for name, tensor in content.items()
    )
    return {name: tensor.detach() for name, tensor in content.items()} if is_one else None


def _tensors(path: Path, content: Any) -> list[Tensor]:
    """The tensors anywhere in the content."""
    found: list[Tensor] = []
    pending, count = [(content, 0)], 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise UserError(f"{path}: its values are nested too deeply")
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict | list | tuple):
            pending += [(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)]
    return found


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cloned(item) for item in value)
    return value
