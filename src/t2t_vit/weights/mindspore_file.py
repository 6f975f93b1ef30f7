"""MindSpore's `.ckpt` as tensors: which of its values are a network's, and which the state of its training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.formats.mindspore_ckpt import Value, read_checkpoint, write_checkpoint
from t2t_vit.weights.names import to_mindspore

# The only names of a T2T-ViT without a dot: what else has none (epoch_num, learning_rate, beta1_power) is state.
_TOP_NAMES = ("cls_token", "pos_embed")
# What the model zoo calls the moving average, a copy of the parameters as an optimizer's slots are.
_EMA = "ema"
_TYPES = {
    **{torch.float32: "Float32", torch.float16: "Float16", torch.float64: "Float64", torch.bfloat16: "BFloat16"},
    **{torch.int8: "Int8", torch.int16: "Int16", torch.int32: "Int32", torch.int64: "Int64"},
    **{torch.uint8: "UInt8", torch.uint16: "UInt16", torch.uint32: "UInt32", torch.uint64: "UInt64"},
    torch.bool: "Bool",
}


@dataclass(frozen=True)
class Sorted:
    """The network's tensors, its moving average where there is one, and the names of what is state."""

    raw: dict[str, Tensor]
    ema: dict[str, Tensor]
    state: tuple[str, ...]


def read_mindspore_file(path: str | Path) -> Sorted:
    """Read a `.ckpt`, tensors on the CPU under MindSpore's names.

    A slot of an optimizer is named `adam_m.<parameter>`, whatever the optimizer: one word before the name of a
    parameter that is there, too.

    Raises:
        UserError: the file is encrypted or damaged.
    """
    values = read_checkpoint(path)
    raw, ema, state = dict[str, Tensor](), dict[str, Tensor](), list[str]()
    for name, value in values.items():
        slot, _, parameter = name.partition(".")
        if isinstance(value.data, str) or (not parameter and name not in _TOP_NAMES):
            state.append(name)
        elif parameter in values and slot == _EMA:
            ema[parameter] = _tensor(value)
        elif parameter in values:
            state.append(name)
        else:
            raw[name] = _tensor(value)
    return Sorted(raw, {**raw, **ema} if ema else {}, tuple(state))


def _tensor(value: Value) -> Tensor:
    assert not isinstance(value.data, str)
    tensor = torch.from_numpy(value.data)
    return tensor.view(torch.bfloat16) if value.type == "BFloat16" else tensor


def write_mindspore_file(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors of PyTorch's names as a `.ckpt` that MindSpore loads.

    Raises:
        UserError: a tensor is of a type that MindSpore has not, or the file cannot be written.
    """
    renamed = to_mindspore(tensors)
    for name, tensor in renamed.items():
        if tensor.dtype not in _TYPES:
            raise UserError(f"{path}: MindSpore has no type for {name}, which is {tensor.dtype}")
    write_checkpoint(Path(path), ((name, _value(tensor)) for name, tensor in renamed.items()))


def _value(tensor: Tensor) -> Value:
    tensor = tensor.detach().cpu().contiguous()
    array: np.ndarray = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return Value(_TYPES[tensor.dtype], array)
