"""Tensors of a file of torch.save, mapped into memory where they lie."""

from collections.abc import Mapping

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.formats.torch_archive import TorchFile
from t2t_vit.formats.torch_globals import ITEM_BYTES, StoredTensor


def tensors_of(file: TorchFile, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors, on the CPU. Parts of the file that are not asked for (an optimizer's state) cost nothing.

    Raises:
        UserError: they are damaged, or claim more elements than the file has.
    """
    # Tensors may share a storage, but all together they cannot be larger than the file.
    if sum(tensor.nbytes for tensor in stored.values()) > len(file.buffer):
        raise UserError(f"{file.path}: its tensors claim to be larger than the file")
    file.check({tensor.storage.key for tensor in stored.values()})
    return {name: _tensor(file, tensor) for name, tensor in stored.items()}


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
